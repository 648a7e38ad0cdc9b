# SPDX-License-Identifier: GPL-2.0-or-later
#
# doc.bash - the commands of docs/memory-node.md, for the tests that run them

# block NAME: the code block of that name, with the test's own paths and plugin. $ETC stands for
# /etc/tmem, $DISK for /dev/sdb1. Fails where there is no such block.
block() {
	local text
	text=$(awk -v name="$1" '/^```/ { on = !on && $2 == name; next } on' "$REPO/docs/memory-node.md")
	[ -n "$text" ] || { echo "no block $1 in the document" >&2; return 1; }
	sed -E "s|/etc/tmem|$ETC|g; s|/dev/sdb1|${DISK:-}|g; s|\\btmem (export)|$B/nbdkit-tmem-plugin.so \\1|g" <<<"$text"
}
