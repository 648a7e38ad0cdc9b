#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# share.bats - mounts of several processes and users that share one cache

load helpers
load host

U=6f1d0c1e-3e0b-4b51-9d40-3e1f2a7c5b10
NOBODY=65534

test_setup() {
	defer stop_host
	defer stop_servers
	chmod 711 "$BATS_RUN_TMPDIR" "$BATS_RUN_TMPDIR/test" "$BATS_TEST_TMPDIR" # for other users
	chmod 755 "$T"
	mkdir -p "$T/back/deep" "$T/a" "$T/b"
	for i in $(seq 1 20); do seq $((i * 1000)) $((i * 1000 + 6000)) >"$T/back/deep/$i"; done
	touch -d '1 hour ago' "$T"/back/deep/*
}

# The servers of the test's own pools.
servers() {
	local p
	for p in $(pgrep -f 'tmemd --pool-server'); do
		if tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -qx "TMEM_SOCKET=$TMEM_SOCKET"; then echo "$p"; fi
	done
}
stop_servers() { for p in $(servers); do kill -9 "$p"; done; }
server() { tmemctl list --json | jq -r '.clients[] | select(.type == "shared") | .pid'; }

allow() { for u in "${@:-0}"; do tmemctl shared-auth add "$U" "$u"; done; }
mount_at() { # DIRECTORY [OPTION]
	tmemfs -o "share=$U${2:+,$2}" "$T/back" "$T/$1"
	defer "umount -l $T/$1"
}
pool() { tmemctl list --json | jq -r --arg k "$1" '.clients[] | select(.type == "shared") | .pools[0][$k]'; }
pool_is() { [ "$(pool "$1")" = "$2" ] || { echo "$1 is $(pool "$1"), not $2"; return 1; }; }
pool_not() { [ "$(pool "$1")" != "$2" ]; }
read_all() { cat "$T/$1"/deep/* | cmp - <(cat "$T"/back/deep/*); }
drop() { echo 3 >/proc/sys/vm/drop_caches; }
# Counters are sent four times a second: wait until they have stood still for a second.
settle() {
	SEEN=''
	retry 60 stood_still
}
stood_still() {
	local -r now=${EPOCHREALTIME/[.,]/} counters=$(tmemctl list --json | jq -c '[.clients[].pools[] | .puts, .gets, .backing_reads]')
	if [ "$counters" != "$SEEN" ]; then SEEN=$counters SINCE=$now; fi
	[ $((now - SINCE)) -ge 1000000 ]
}
# Two mounts in one pool, which has what one of them read.
two_mounts() {
	host
	allow 0
	mount_at a
	mount_at b
	read_all a
	retry 10 pool_not pages 0
}

@test "a mount has hits from what another one has read, and reads nothing below" {
	host
	allow 0
	mount_at a
	mount_at b
	pool_is sharers 2
	read_all a
	retry 10 pool_not pages 0
	retry 10 pool_not backing_reads 0
	settle
	reads=$(pool backing_reads) pages=$(pool pages)
	[ "$reads" -ge 20 ]
	read_all b
	settle
	pool_is backing_reads "$reads"
	pool_is hits "$pages"
}

@test "two users share; the data of one is found by the other" {
	host
	allow 0 $NOBODY
	mount_at a
	read_all a
	retry 10 pool_not backing_reads 0
	settle
	reads=$(pool backing_reads)
	chown $NOBODY "$T/b"
	setpriv --reuid $NOBODY --regid $NOBODY --clear-groups "$B/tmemfs" -f -o "share=$U" "$T/back" "$T/b" >"$T/log" 2>&1 3>&- &
	defer "umount -l $T/b"
	retry 20 grep -q " $T/b " /proc/self/mounts
	setpriv --reuid $NOBODY --regid $NOBODY --clear-groups sh -c "cat '$T'/b/deep/*" | cmp - <(cat "$T"/back/deep/*)
	settle
	pool_is backing_reads "$reads"
	pool_is sharers 2
}

@test "who is not let in gets an error and no mount, root too" {
	host
	try 1 tmemfs -o "share=$U" "$T/back" "$T/a"
	one_line
	contains "cannot join shared pool $U: this user may not"
	not mountpoint -q "$T/a"
	tmemctl shared-auth add 00000000-0000-0000-0000-000000000001 root
	try 1 tmemfs -o "share=$U" "$T/back" "$T/a"
	contains 'this user may not'
	allow 0
	mount_at a
	[ "$(tmemctl list --json | jq '.clients | length')" = 1 ]
}

@test "shared-auth: add, list, remove; a removed user's connections end, its mount goes on" {
	host
	try 0 tmemctl shared-auth list
	[ -z "$output" ]
	allow 0 0 nobody
	try 0 tmemctl shared-auth list
	[ "$(sort <<<"$output")" = "$U 0 root"$'\n'"$U $NOBODY nobody" ]
	try 0 tmemctl shared-auth list --json
	[ "$(jq -c '.auths | length' <<<"$output")" = 2 ]
	mount_at a
	read_all a
	tmemctl shared-auth remove $U root
	retry 10 pool_is sharers 0
	drop
	read_all a
	try 1 tmemfs -o "share=$U" "$T/back" "$T/b"
	allow 0
	retry 30 pool_is sharers 1
	tmemctl shared-auth remove $U 12345 # was not there
	try 2 tmemctl shared-auth add $U no-such-user
	contains "no user 'no-such-user'"
	try 2 tmemctl shared-auth add $U
	try 2 tmemctl shared-auth frobnicate
	try 1 tmemctl shared-auth add abc 0
	contains 'uuid has to be'
}

@test "the configuration lets users in; nonsense in it is one line" {
	printf 'shared-auth = %s root 1234\nshared-auth = %s nobody\n' "$U" "$U" >"$T/conf"
	host -c "$T/conf"
	[ "$(tmemctl shared-auth list | wc -l)" = 3 ]
	mount_at a
	stop_host
	for line in 'x root' "$U" "$U no-such-user" '00000000-0000-0000-0000-000000000000 root'; do
		echo "shared-auth = $line" >"$T/conf2"
		try 1 "$B/tmemd" -S "$T/other.sock" -c "$T/conf2"
		one_line
		contains "$T/conf2:1: shared-auth: "
	done
}

@test "whom a command removed stays out under the next tmemd, whatever the configuration says" {
	printf 'shared-auth = %s root 1234\n' "$U" >"$T/conf"
	host -c "$T/conf"
	tmemctl shared-auth remove $U 1234
	[ "$(tmemctl shared-auth list)" = "$U 0 root" ]
	kill -9 "$(host_pid)"
	retry 10 not tmemctl list
	host -c "$T/conf"
	[ "$(tmemctl shared-auth list)" = "$U 0 root" ]
	tmemctl shared-auth remove $U root
	try 1 tmemfs -o "share=$U" "$T/back" "$T/a"
	contains 'this user may not'
	tmemctl shared-auth add $U 1234
	stop_host
	retry 10 not tmemctl list
	retry 10 host -c "$T/conf"
	[ "$(tmemctl shared-auth list | cut -d' ' -f 1,2)" = "$U 1234" ]
	# Whom the configuration does not let in any more needs no removing.
	stop_host
	printf 'shared-auth = %s 99\n' "$U" >"$T/conf"
	retry 10 host -c "$T/conf"
	[ "$(tmemctl shared-auth list | cut -d' ' -f 1,2)" = "$U 99" ]
}

@test "what a command let in holds for the tmemd after this one" {
	host
	allow 0 1234
	tmemctl shared-auth remove $U 1234
	kill -9 "$(host_pid)"
	retry 10 not tmemctl list
	host
	[ "$(tmemctl shared-auth list)" = "$U 0 root" ]
	kill -9 "$(host_pid)"
	retry 10 not tmemctl list
	mount_at a # which starts one
	[ "$(tmemctl shared-auth list)" = "$U 0 root" ]
	echo nonsense >"$T/control.sock.auth"
	kill -9 "$(host_pid)"
	retry 10 not tmemctl list
	host
	try 0 tmemctl shared-auth list
	[ -z "$output" ]
}

@test "options: bad values, and what does not go with share" {
	host
	allow 0
	try 2 tmemfs -o share=1234 "$T/back" "$T/a"
	one_line
	try 2 tmemfs -o "share=$U,limit=64M" "$T/back" "$T/a"
	contains 'cap=SIZE'
	try 1 tmemfs -S none -o "share=$U" "$T/back" "$T/a"
	one_line
	mount_at a
	try 1 tmemfs -o "share=$U,order=0" "$T/back" "$T/b"
	one_line
	contains 'pages of another size'
}

@test "joining twice, leaving in any order: who stays keeps the pages, and then the server goes" {
	two_mounts
	umount "$T/a"
	retry 10 pool_is sharers 1
	read_all b
	pool_not hits 0
	mount_at a
	pool_is sharers 2
	umount "$T/b"
	retry 10 pool_is sharers 1
	umount "$T/a"
	retry 10 pool_is sharers 0
	retry 30 clients_are 0
	retry 10 test -z "$(servers)"
}

@test "kill -9 of a sharer: the others keep their pages, the count is right" {
	two_mounts
	settle
	reads=$(pool backing_reads)
	kill -9 "$(pgrep -f "tmemfs .*$T/a$")"
	retry 10 pool_is sharers 1
	read_all b
	settle
	pool_is backing_reads "$reads"
}

@test "sharers that die at any point while they read: who stays has right bytes, the count is exact" {
	two_mounts
	mkdir "$T/c"
	for i in 1 2 3 4 5 6 7 8; do
		if [ $((i % 2)) = 1 ]; then drop; fi
		mount_at c
		victim=$(pgrep -f "tmemfs .*$T/c$")
		target=$(($(pool gets) + RANDOM % 40))
		cat "$T"/c/deep/* >/dev/null 2>&1 3>&- &
		reader=$!
		until [ "$(pool gets)" -ge "$target" ] || ! kill -0 $reader 2>/dev/null; do :; done
		kill -9 "$victim"
		wait $reader || true
		umount -l "$T/c"
		retry 10 pool_is sharers 2
	done
	drop
	read_all a
	read_all b
	pool_not hits 0
	umount "$T/a"
	umount "$T/b"
	retry 10 pool_is sharers 0
	retry 30 clients_are 0
}

@test "kill -9 of the pool's server: reads go on, and a new one is joined" {
	host
	allow 0
	mount_at a
	mount_at b
	read_all a
	for i in 1 2 3; do
		old=$(server)
		kill -9 "$old"
		drop
		read_all a
		read_all b
		retry 30 pool_is sharers 2
		[ "$(server)" != "$old" ]
		drop
		read_all a
		retry 10 pool_not pages 0
	done
}

@test "kill -9 of tmemd: sharers keep their cache, and the next tmemd finds it" {
	two_mounts
	settle
	old=$(server) pages=$(pool pages)
	kill -9 "$(host_pid)"
	read_all b
	retry 10 not tmemctl list
	host
	retry 20 pool_is sharers 2
	[ "$(server)" = "$old" ]
	pool_is pages "$pages"
	umount "$T/a"
	mount_at a
	retry 10 pool_is sharers 2
	[ "$(server)" = "$old" ]
}

@test "a stopped sharer holds nobody up" {
	host
	allow 0
	mount_at a
	mount_at b
	read_all a
	pid=$(pgrep -f "tmemfs .*$T/a$")
	defer "kill -CONT $pid"
	stop "$pid"
	read_all b
	tmemctl flush 1G
	drop
	read_all b
	kill -CONT "$pid"
	read_all a
}

@test "a stopped server: reads go on without it, and with it when it goes on" {
	host
	allow 0
	mount_at a
	read_all a
	retry 10 pool_not pages 0
	pid=$(server)
	stop "$pid"
	drop
	read_all a # waits for it once
	echo changed >>"$T/a/deep/7"
	kill -CONT "$pid"
	retry 30 pool_is sharers 1
	read_all a
	[ "$(server)" = "$pid" ]
}

@test "list, freeze, thaw, flush, set and destroy work on it" {
	host
	allow 0
	mount_at a
	mount_at b
	is $U type shared
	tmemctl freeze $U
	read_all a
	settle
	pool_is pages 0
	tmemctl thaw $U
	drop
	read_all a
	retry 10 pool_not pages 0
	tmemctl flush 1G $U
	pool_is pages 0
	tmemctl set $U weight=300 cap=32M
	is $U weight 300
	is $U cap_bytes $((32 << 20))
	tmemctl destroy $U
	retry 10 clients_are 0
	drop
	read_all a
	read_all b
	clients_are 0 # they do not come back
	umount "$T/a"
	mount_at a # but the next one does
	retry 10 pool_is sharers 1
}

@test "a change through one mount is seen through the other when it opens the file" {
	host
	allow 0
	mount_at a
	mount_at b
	read_all a
	read_all b
	for i in $(seq 1 20); do
		echo "line $i" >>"$T/a/deep/5"
		[ "$(tail -n 1 "$T/b/deep/5")" = "line $i" ]
		[ "$(tail -n 1 "$T/a/deep/5")" = "line $i" ]
		echo "other $i" >"$T/b/deep/6"
		[ "$(cat "$T/a/deep/6")" = "other $i" ]
	done
	read_all a
	read_all b
}

@test "nor do files opened from memory, listings and attributes that are cached hide such a change" {
	host
	allow 0
	mount_at a
	mount_at b actimeo=60
	for i in 1 2 3 4; do
		aged "$T/back/deep"
		read_all a
		read_all b
		read_all b # opened without the backing
		ls -l "$T/a/deep" "$T/b/deep" >/dev/null
		f=$((i % 2 + 5))
		printf x | dd of="$T/a/deep/$f" bs=1 seek=$((i * 2000)) conv=notrunc status=none
		cmp "$T/b/deep/$f" "$T/back/deep/$f"
		cmp "$T/a/deep/$f" "$T/back/deep/$f"
		touch -d '1 hour ago' "$T/a/deep/$f" # ctime tells them apart
	done
	read_all a
	read_all b
}

@test "file systems below are not confused with each other, nor with those that come after" {
	host
	allow 0
	mkdir "$T/fs" "$T/fs/d"
	mount_at a
	for i in 1 2 3; do
		mount -t tmpfs none "$T/fs"
		mkdir "$T/fs/d"
		yes "$i" | head -c 100000 >"$T/fs/d/f"
		touch -d '1 hour ago' "$T/fs/d/f"
		aged "$T/fs/d"
		tmemfs -o "share=$U" "$T/fs/d" "$T/b"
		cmp "$T/b/f" "$T/fs/d/f"
		umount "$T/b"
		retry 10 umount "$T/fs" # the process has to end first
	done
}

@test "the server has no privileges; others can neither trace nor dump it" {
	host
	allow 0
	mount_at a
	status=$(cat "/proc/$(server)/status")
	grep -qP '^CapEff:\t0+$' <<<"$status"
	grep -qP '^CapPrm:\t0+$' <<<"$status"
	grep -qP '^NoNewPrivs:\t1$' <<<"$status"
	if grep -q errno /proc/sys/kernel/seccomp/actions_avail 2>/dev/null; then
		retry 10 grep -qP '^Seccomp:\t2$' "/proc/$(server)/task/$(server)/status"
		for task in "/proc/$(server)"/task/*; do grep -qP '^Seccomp:\t2$' "$task/status"; done
	fi
	grep -qP "^Uid:\t$NOBODY\t$NOBODY\t$NOBODY\t$NOBODY$" <<<"$status"
	[ "$(cat "/proc/$(server)/oom_score_adj")" = 0 ]
	not setpriv --reuid $NOBODY --regid $NOBODY --clear-groups cat "/proc/$(server)/maps"
}

# Of this test's tmemd: whichever they are, theirs are the other ends of its sockets.
launchers() {
	local pid
	for pid in $(pgrep -x tmemd-launcher); do
		if tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qxF "TMEM_SOCKET=$TMEM_SOCKET"; then echo "$pid"; fi
	done
}
two_launchers() { [ "$(launchers | wc -l)" = 2 ]; }
replaced() { [ "$(tmemctl list --json | jq .host.launchers_replaced)" = "$1" ]; }
gone() { [ ! -e "/proc/$1" ] || [ "$(awk '{ print $3 }' "/proc/$1/stat")" = Z ]; }

# confined PID: it can become somebody else and no more, and holds nothing.
confined() {
	retry 10 grep -qP '^CapEff:\t00000000000000c0$' "/proc/$1/status" # CAP_SETGID, CAP_SETUID
	grep -qP '^CapPrm:\t00000000000000c0$' "/proc/$1/status"
	grep -qP '^CapBnd:\t00000000000000c0$' "/proc/$1/status"
	grep -qP '^CapInh:\t0+$' "/proc/$1/status"
	grep -qP '^NoNewPrivs:\t1$' "/proc/$1/status"
	three_and_its_own() { [ "$(ls "/proc/$1/fd" | tr '\n' ' ')" = '0 1 2 3 ' ]; }
	retry 10 three_and_its_own "$1"
}

@test "the launchers can become somebody else and no more, hold nothing, and end with tmemd" {
	host
	retry 10 two_launchers
	pids=$(launchers)
	for pid in $pids; do confined "$pid"; done
	kill -9 "$(host_pid)"
	for pid in $pids; do retry 10 gone "$pid"; done
}

@test "a launcher that ends has an heir, and pools are begun as before" {
	host
	allow 0
	retry 10 two_launchers
	for i in 1 2 3; do
		kill -9 "$(launchers | sed -n "$((i % 2 + 1))p")"
		retry 10 replaced "$i"
		retry 10 two_launchers
		for pid in $(launchers); do confined "$pid"; done
		uuid=00000000-0000-0000-0000-00000000000$i
		tmemctl shared-auth add "$uuid" root
		tmemfs -o "share=$uuid" "$T/back" "$T/b"
		read_all b
		umount "$T/b"
	done
	pids=$(launchers)
	kill -9 "$(host_pid)"
	for pid in $pids; do retry 10 gone "$pid"; done
}

@test "without any launcher pools go on, and none is begun until the next tmemd, which says so" {
	host
	allow 0
	tmemctl shared-auth add 00000000-0000-0000-0000-000000000001 root
	mount_at a
	retry 10 two_launchers
	kill -STOP "$(host_pid)" # or the second has an heir before it dies
	# shellcheck disable=SC2046
	kill -9 $(launchers)
	retry 10 eval '[ -z "$(launchers)" ]'
	kill -CONT "$(host_pid)"
	mount_at b
	read_all b
	umount "$T/b"
	try 1 tmemfs -o share=00000000-0000-0000-0000-000000000001 "$T/back" "$T/b"
	one_line
	try 0 door '{"execute":"share","arguments":{"uuid":"00000000-0000-0000-0000-000000000001"}}'$'\n'
	contains 'tmemd has no launcher any more, and has to be started again'
	replaced 0
	pid=$(host_pid)
	stop_host
	retry 10 gone "$pid"
	host
	mount_at b
	retry 20 pool_is sharers 2
}

# door [LINE...]: as talk, at the door.
door() { TMEM_SOCKET=$TMEM_SOCKET.share talk "$@"; }

@test "the door: strangers get an error, everybody one request, and none of the others" {
	host
	try 0 door '{"execute":"list"}'$'\n'
	contains NotPermitted
	not contains protocol
	allow 0
	try 0 door '{"execute":"list"}'$'\n'
	contains CommandNotFound
	try 0 door "{\"execute\":\"share\",\"arguments\":{\"uuid\":\"$U\",\"x\":1}}"$'\n'
	contains InvalidParameter
	try 0 door '{"execute":"share","arguments":{"uuid":"00000000-0000-0000-0000-000000000001"}}'$'\n'
	contains NotPermitted
	try 0 door 'nonsense'$'\n'
	contains ProtocolError
	try 0 door "$(head -c 5000 /dev/zero | tr '\0' a)"
	contains ProtocolError
	[ -z "$(server)" ]
	[ "$(stat -c %a "$TMEM_SOCKET")" = 600 ]
}

@test "a server survives whatever it is told, and serves others meanwhile" {
	host
	allow 0
	mount_at a
	pid=$(server)
	for seed in 1 2 3; do
		"$B/tests/sharefuzz" "$TMEM_SOCKET" $U $seed 30
		read_all a
	done
	[ "$(server)" = "$pid" ]
	retry 10 pool_is sharers 1
	drop
	read_all a
}
