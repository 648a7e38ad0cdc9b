#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# netfs.bats - tmemfs over network file systems: NFS in a kernel of its own, sshfs and rclone in this one

load helpers
load mount

# over_nfs VERSION CASE...: tests/vm/nfs in a guest (linux.uml), where operations are counted at the server.
over_nfs() {
	requires linux.uml rpc.nfsd
	UML_DISK=256M UML_SECONDS=240 try 0 "$REPO/tests/vm/uml" "$REPO/tests/vm/nfs" "$@"
	for name in "${@:2}"; do contains "$1 $name: as it should be"; done
}

@test "NFS 4.2: what a pass costs, what others change, names that go" { over_nfs 4.2 counts changes removed; }
@test "NFS 3: what a pass costs, what others change, names that go" { over_nfs 3 counts changes removed; }
@test "NFS 4.2: root is nobody, what it can do, an export that is revoked, everything done to a file" {
	over_nfs 4.2 squashed features locks revoked again torture
}
@test "NFS 3: a server that says nothing, hard and soft" { over_nfs 3 squashed stopped soft; }

# --- sshfs, rclone -------------------------------------------------------------------------------

# some: twelve files below $BACK.
some() { for i in $(seq 12); do seq "$i" 30000 >"$T/back/f$i"; done; }

# over_sshfs [OPTION]: $T/back through an sftp-server, which says what it is asked.
over_sshfs() {
	requires sshfs
	[ -x /usr/lib/openssh/sftp-server ] || skip "no sftp-server on this machine"
	printf '#!/bin/sh\nexec /usr/lib/openssh/sftp-server -e -l DEBUG3 2>"%s"\n' "$T/sftp.log" >"$T/sftp"
	chmod +x "$T/sftp"
	mkdir "$T/far"
	sshfs -o "ssh_command=$T/sftp,allow_other${1:+,$1}" "localhost:$T/back" "$T/far" 3>&-
	defer "umount -l '$T/far'"
	BACK=$T/far
}
asked_sftp() { grep -cE "request [0-9]+: $1" "$T/sftp.log" || true; }

# asks_no READ COMMAND...: of the server.
asks_no() {
	local before
	before=$(asked_sftp "$1")
	"${@:2}" >/dev/null
	[ "$(asked_sftp "$1")" -eq "$before" ]
}

@test "sshfs: read once, also when the kernel has forgotten the files; others get in by their permissions" {
	some
	over_sshfs dir_cache=no
	mnt -o allow_other
	again() { drop_caches; asks_no read cat "$MNT"/f*; }
	retry 20 again # once the stamps, in whole seconds, are old enough
	again
	cat "$MNT"/f* | cmp - <(cat "$T"/back/f*)
	chmod 755 "$BATS_RUN_TMPDIR" "$BATS_TEST_TMPDIR" "$T" "$T/back"
	setpriv --reuid 2000 --regid 2000 --clear-groups cat "$MNT/f1" | cmp - "$T/back/f1"
}

@test "sshfs without its cache: what others change is seen at the next open" {
	some
	over_sshfs dir_cache=no
	mnt
	local i
	for i in 1 2 3; do
		# Within one second, and as long: nothing but their age tells that these are not to be cached.
		echo "text $i" >"$T/back/f1"
		[ "$(cat "$MNT/f1")" = "text $i" ]
	done
	echo other >"$T/back/new"
	mv "$T/back/new" "$T/back/f1"
	[ "$(cat "$MNT/f1")" = other ]
	rm "$T/back/f1"
	try 1 cat "$MNT/f1"
	echo ours >"$MNT/f2"
	[ "$(cat "$T/back/f2")" = ours ]
	exec 7<"$MNT/f3"
	rm "$MNT/f3"
	drop_caches
	cmp /proc/self/fd/7 <(seq 3 30000)
	exec 7<&-
}

@test "rclone: read once; who is not the owner gets in; others' changes without its cache" {
	requires rclone
	some
	mkdir "$T/far"
	rclone mount "$T/back" "$T/far" --allow-other --vfs-cache-mode writes --dir-cache-time 0s --attr-timeout 0s \
		--log-file "$T/log" --log-level DEBUG --config "$T/none" </dev/null >/dev/null 2>&1 3>&- &
	defer "umount -l '$T/far'; kill $!"
	retry 20 mounted "$T/far"
	BACK=$T/far
	mnt -o allow_other
	opens() { grep -c 'OpenFile\|: Open: ' "$T/log" || true; }
	again() {
		drop_caches
		local before
		before=$(opens)
		cat "$MNT"/f* >/dev/null
		[ "$(opens)" -eq "$before" ]
	}
	retry 20 again
	[ "$(opens)" -gt 0 ]
	cat "$MNT"/f* | cmp - <(cat "$T"/back/f*)
	chmod 755 "$BATS_RUN_TMPDIR" "$BATS_TEST_TMPDIR" "$T" "$T/back"
	setpriv --reuid 2000 --regid 2000 --clear-groups cat "$MNT/f1" | cmp - "$T/back/f1"
	# It looks at a file again when somebody looks its name up.
	echo changed >"$T/back/f1"
	retry 10 cmp "$MNT/f1" "$T/back/f1"
}
