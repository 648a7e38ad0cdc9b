# SPDX-License-Identifier: GPL-2.0-or-later
#
# doc.bash - the commands of docs/memory-node.md and of the manual pages, for the tests that run them
#
# With the test's own paths and plugin: $ETC stands for /etc/tmem, $DISK for the disks that are named.

# block NAME: the document's code block of that name. Fails where there is none.
block() {
	local text
	text=$(awk -v name="$1" '/^```/ { on = !on && $2 == name; next } on' "$REPO/docs/memory-node.md")
	[ -n "$text" ] || { echo "no block $1 in the document" >&2; return 1; }
	here_it_is <<<"$text"
}

# manual PAGE TEXT: the first example of the page in which TEXT occurs. Fails where there is none.
manual() {
	local text
	text=$(awk -v text="$2" '
		/^\.(Bd|nf)/ { on = 1; block = ""; next }
		/^\.(Ed|fi)/ { if (on && index(block, text)) { printf "%s", block; exit } on = 0; next }
		on { block = block $0 "\n" }' "$REPO/man/$1" | sed 's/\\\\/\\/g; s/\\-/-/g')
	[ -n "$text" ] || { echo "no example with '$2' in $1" >&2; return 1; }
	here_it_is <<<"$text"
}

here_it_is() {
	sed -E "s|/etc/tmem|$ETC|g; s#/dev/sdb1|/var/swap.tmem#${DISK:-}#g; s#\\btmem (export|pool|size)#$B/nbdkit-tmem-plugin.so \\1#g"
}
