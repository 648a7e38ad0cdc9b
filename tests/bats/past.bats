#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tmemfs -o passthrough: files that are being written go past us

load helpers
load mount

# passes: this kernel can do it.
passes() {
	local major minor
	IFS=. read -r major minor _ < <(uname -r)
	[ $((major * 100 + minor)) -ge 609 ] || skip "Linux 6.9 has FUSE passthrough"
	! zgrep -qs '^# CONFIG_FUSE_PASSTHROUGH is not set' /proc/config.gz || skip "this kernel has no FUSE passthrough"
}

# past [OPTION...]: a mount where that is so.
past() {
	passes
	mnt -o passthrough,allow_other "$@"
}

@test "what is written past us is seen by everybody, and by the cache when it is closed" {
	past -o actimeo=600
	echo one >"$MNT/f"
	[ "$(cat "$MNT/f")" = one ]
	exec 7>>"$MNT/f"
	echo two >&7
	[ "$(cat "$BACK/f")" = "$(cat "$MNT/f")" ]
	[ "$(stat -c %s "$MNT/f")" -eq 8 ]
	echo below >>"$BACK/f"
	[ "$(cat "$MNT/f")" = $'one\ntwo\nbelow' ]
	[ "$(stat -c %s "$MNT/f")" -eq 14 ]
	echo three >&7
	exec 7>&-
	[ "$(cat "$MNT/f")" = $'one\ntwo\nbelow\nthree' ]
	aged "$BACK/f"
	cat "$MNT/f"
	cmp "$BACK/f" "$MNT/f"
	# The second open for writing finds it open: it is served as ever.
	exec 6<"$MNT/f" 7>>"$MNT/f"
	echo four >&7
	exec 7>&-
	[ "$(tail -n 1 <&6)" = four ]
	exec 6<&-
	cmp "$BACK/f" "$MNT/f"
}

@test "writes do not come to us" {
	passes
	tmemfs -d -S none -o passthrough "$BACK" "$MNT" >"$T/requests" 2>&1 3>&- &
	defer "umount -l '$MNT'"
	retry 10 mounted "$MNT"
	dd if=/dev/zero of="$MNT/f" bs=4096 count=500 status=none
	[ "$(stat -c %s "$BACK/f")" -eq 2048000 ]
	sync -f "$MNT"
	[ "$(grep -c 'opcode: WRITE' "$T/requests")" -eq 0 ]
	# Somebody reads it: then they do.
	exec 6<"$MNT/f"
	dd if=/dev/zero of="$MNT/f" bs=4096 count=10 status=none conv=notrunc
	exec 6<&-
	retry 10 eval "[ \$(grep -c 'opcode: WRITE' '$T/requests') -eq 10 ]"
}

@test "set-user-id bits go with a write past us, whoever set them meanwhile" {
	past -o suid
	local d=$T
	while [ "$d" != / ] && [ "$d" != /tmp ]; do
		chmod go+x "$d"
		d=$(dirname "$d")
	done
	cp "$(command -v id)" "$BACK/id"
	chmod 777 "$BACK/id"
	chown 54320 "$BACK/id"
	chmod 777 "$T"
	setpriv --reuid 65534 --regid 65534 --clear-groups bash -c "exec 7>>'$MNT/id'; touch '$T/open'; until [ -e '$T/set' ]; do sleep 0.01; done; echo >&7" 3>&- &
	retry 10 test -e "$T/open"
	chmod 6777 "$MNT/id"
	touch "$T/set"
	wait $!
	[ "$(stat -c %a "$BACK/id")" = 777 ]
	[ "$(stat -c %a "$MNT/id")" = 777 ]
	[ "$(setpriv --reuid 65534 --regid 65534 --clear-groups "$MNT/id" -u)" = 65534 ]
	# One that has them is served as ever: the outcome is the backing's.
	chmod 6777 "$MNT/id"
	setpriv --reuid 65534 --regid 65534 --clear-groups bash -c "echo >>'$MNT/id'"
	[ "$(stat -c %a "$BACK/id")" = 777 ]
	chmod 6777 "$MNT/id"
	echo >>"$MNT/id"
	[ "$(stat -c %a "$BACK/id")" = 6777 ]
}

@test "whatever is open how, no open fails, and nobody reads what is not there" {
	past -o limit=2M
	# Each process writes its number all over one of five files, which all others open in every way.
	cat >"$T/race.py" <<-'PY'
		import mmap, os, random, sys, time
		top, seed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
		random.seed(seed)
		end, ops = time.monotonic() + seconds, 0
		word = b"%08d" % seed
		while time.monotonic() < end:
		    path = f"{top}/f{random.randrange(5)}"
		    how = random.choice([os.O_RDONLY, os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_APPEND])
		    fd = os.open(path, how | random.choice([0, 0, 0, os.O_DIRECT]) | random.choice([0, 0, os.O_CREAT]))
		    for i in range(random.randrange(4)):
		        off = random.randrange(16) * 4096
		        if how == os.O_RDONLY or how == os.O_RDWR and random.random() < .5:
		            if random.random() < .3:
		                with mmap.mmap(fd, 65536, prot=mmap.PROT_READ) as m: data = m[off:off + 4096]
		            else:
		                buf = mmap.mmap(-1, 4096)
		                n = os.preadv(fd, [buf], off)
		                assert n == 4096, n
		                data = buf[:]
		            for j in range(0, 4096, 8):
		                assert data[j:j + 8].isdigit(), data[j:j + 8]
		        elif not how & os.O_APPEND:
		            buf = mmap.mmap(-1, 4096)
		            buf[:] = word * 512
		            if how == os.O_RDWR and random.random() < .3:
		                with mmap.mmap(fd, 65536) as m: m[off:off + 4096] = buf[:]
		            else:
		                assert os.pwritev(fd, [buf], off) == 4096
		        if random.random() < .1: os.fsync(fd)
		        if random.random() < .1: assert os.fstat(fd).st_size == 65536
		    os.close(fd)
		    ops += 1
		print(ops)
	PY
	local i pids=()
	for i in {0..4}; do printf '00000000%.0s' {1..8192} >"$BACK/f$i"; done
	for i in {1..8}; do
		python3 "$T/race.py" "$MNT" "$i" "${RACE:-8}" 3>&- &
		pids+=($!)
	done
	for i in "${pids[@]}"; do wait "$i"; done
	for i in {0..4}; do
		cmp "$BACK/f$i" "$MNT/f$i"
		drop_caches
		cmp "$BACK/f$i" "$MNT/f$i"
	done
}

@test "files are exercised as on the directory below, past us and not" {
	past -o limit=2M
	PATH=$PATH:$B/tests
	try 0 fileops -n 20000 -p 4 -b "$BACK" "$MNT/f"
	try 0 racefiles -t "${RACE:-8}" "$MNT" "$BACK"
}

@test "a stacked backing is served as ever" {
	past
	mkdir "$T/second"
	tmemfs -S none -o passthrough "$MNT" "$T/second" 3>&-
	defer "umount -l '$T/second'"
	head -c 100000 /dev/urandom >"$T/second/f"
	cmp "$T/second/f" "$BACK/f"
	mkdir "$T/upper" "$T/work" "$T/merged"
	mount -t overlay overlay -o "lowerdir=$MNT,upperdir=$T/upper,workdir=$T/work" "$T/merged" || skip "no overlayfs here"
	defer "umount -l '$T/merged'"
	cmp "$T/merged/f" "$BACK/f"
}
