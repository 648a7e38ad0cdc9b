#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tmemd: starting, stopping, its socket, its configuration; clients that are stuck, hosts that are killed

load helpers
load host

# --- starting and stopping ---------------------------------------------------------------------

@test "help and version" {
	for p in tmemd tmemctl tmemstat; do
		try 0 "$B/$p" --help
		contains "usage: $p"
		try 0 "$B/$p" --version
		contains "$p 0.1"
		one_line
	done
	for c in list freeze thaw freeable flush set destroy watch help; do
		try 0 tmemctl help $c
		contains "usage: tmemctl $c"
	done
}

@test "usage errors name what is wrong and exit 2" {
	try 2 tmemd --bogus
	contains bogus
	contains "try 'tmemd --help'"
	try 2 tmemd -l 12Q
	contains "'12Q' is no size"
	try 2 tmemd --reserve=-1
	try 2 tmemd --on-demand=soon
	try 2 tmemd extra
	contains "'extra'"
	try 2 tmemctl
	contains "try 'tmemctl --help'"
	try 2 tmemctl frobnicate
	contains "'frobnicate'"
	try 2 tmemctl list extra
	try 2 tmemctl list --force
	contains "'--force'"
	try 2 tmemctl flush
	try 2 tmemctl flush 12Q
	contains "'12Q' is no size"
	try 2 tmemctl set a
	try 2 tmemctl set a weight=x
	try 2 tmemctl set a cap=12Q
	try 2 tmemctl set a compress=zip
	try 2 tmemctl set a colour=red
	contains "'colour=red'"
	try 2 tmemctl -S
	try 2 tmemctl help nonsense
	try 2 tmemstat --bogus
	contains "try 'tmemstat --help'"
	try 2 tmemstat 0
	try 2 tmemstat 1 0
	try 2 tmemstat 1 1.5
	try 2 tmemstat --json --prometheus
	try 2 tmemstat --prometheus 1
}

@test "without a host the tools say so and exit 3" {
	for c in list freeze thaw freeable "flush 1M" "set a weight=1" "destroy a" watch; do
		try 3 tmemctl $c
		contains "no tmemd on $TMEM_SOCKET"
		one_line
	done
	try 3 tmemstat
	one_line
}

@test "tmemd listens when its command returns, and cleans up when terminated" {
	host
	[ -S "$TMEM_SOCKET" ]
	[ "$(stat -c %a "$TMEM_SOCKET")" = 600 ]
	try 0 tmemctl list
	kill "$(host_pid)"
	retry 10 test ! -e "$TMEM_SOCKET"
	try 3 tmemctl list
}

@test "foreground, SIGINT" {
	"$B/tmemd" -f 3>&- 2>"$T/log" &
	pid=$!
	retry 10 tmemctl list
	kill -INT $pid
	wait $pid
	[ ! -e "$TMEM_SOCKET" ]
	grep -q "tmemd: serving $TMEM_SOCKET" "$T/log"
}

@test "it makes the directory of the socket" {
	host -S "$T/sub/control.sock"
	defer "kill $(host_pid "$T/sub/control.sock")"
	[ "$(stat -c %a "$T/sub")" = 755 ]
	try 0 tmemctl -S "$T/sub/control.sock" list
	try 1 tmemd -S "$T/no/such/control.sock"
	one_line
}

@test "a second tmemd is refused, the first goes on" {
	host
	try 1 tmemd
	contains "another tmemd (pid $(host_pid)) serves $TMEM_SOCKET"
	one_line
	try 0 tmemctl list
}

@test "a stale socket is replaced" {
	host
	kill -9 "$(host_pid)"
	[ -S "$TMEM_SOCKET" ]
	try 3 tmemctl list
	host
	try 0 tmemctl list
}

@test "what is in the way is refused and left alone" {
	echo precious >"$TMEM_SOCKET"
	try 1 tmemd
	contains "exists and is no socket"
	one_line
	[ "$(cat "$TMEM_SOCKET")" = precious ]
	rm "$TMEM_SOCKET"
	python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$TMEM_SOCKET"
	chown nobody "$TMEM_SOCKET"
	try 1 tmemd
	contains "belongs to somebody else"
	one_line
	[ -S "$TMEM_SOCKET" ]
	mkdir "$T/theirs"
	chown nobody "$T/theirs"
	try 1 tmemd -S "$T/theirs/control.sock"
	contains "belongs to somebody else"
	mkdir -m 777 "$T/open"
	try 1 tmemd -S "$T/open/control.sock"
	contains "everybody can write"
	try 1 tmemd -S "$T/$(printf 'x%.0s' {1..120})"
	contains "too long"
	one_line
}

@test "configuration file" {
	printf '# comment\nlimit = 64M\nreserve = 1M\n' >"$T/conf"
	host -c "$T/conf"
	[ "$(tmemctl list --json | jq .host.limit_bytes)" = 67108864 ]
	[ "$(tmemctl list --json | jq .host.reserve_bytes)" = 1048576 ]
	stop_host
	retry 10 test ! -e "$TMEM_SOCKET"
	host -c "$T/conf" -l 32M
	[ "$(tmemctl list --json | jq .host.limit_bytes)" = 33554432 ]
}

@test "errors in the configuration file name file and line" {
	printf 'limit = 64M\ncolour = red\n' >"$T/conf"
	try 1 tmemd -c "$T/conf"
	contains "$T/conf:2: unknown key 'colour'"
	one_line
	printf '\nlimit = 12Q\n' >"$T/conf"
	try 1 tmemd -c "$T/conf"
	contains "$T/conf:2: limit: '12Q' is no size"
	printf '[host]\nlimit = 1M\n' >"$T/conf"
	try 1 tmemd -c "$T/conf"
	contains "[host]"
	printf 'nonsense\n' >"$T/conf"
	try 1 tmemd -c "$T/conf"
	contains "$T/conf:1:"
	try 1 tmemd -c "$T/absent"
	contains "$T/absent"
	one_line
	[ ! -e "$TMEM_SOCKET" ]
}

@test "on demand: started by a client, ends when nobody is left" {
	"$B/tests/client" -d -n lonely >/dev/null 3>&- &
	CLIENT=$!
	defer "kill $CLIENT"
	retry 10 clients_are 1
	kill $CLIENT
	wait $CLIENT
	host_is_gone() { ! kill -0 "$(host_pid)"; }
	retry 30 host_is_gone
	[ ! -e "$TMEM_SOCKET" ]
}

@test "on demand: stays while all are frozen" {
	host --on-demand=1
	tmemctl freeze
	host --on-demand=1 -S "$T/other.sock"
	retry 20 test ! -e "$T/other.sock"
	try 0 tmemctl thaw
	retry 20 test ! -e "$TMEM_SOCKET"
}

@test "the manual's counters are those of the table" {
	host
	while read -r key help; do
		grep -A 1 "^.B $key\$" "$REPO/man/tmemd.8" | sed 's/\\-/-/g' | grep -qxF "$help" || { echo "$key: $help"; return 1; }
		tmemctl list --json | jq -e --arg k "$key" '.host[$k] >= 0'
		tmemstat --prometheus | grep -q "^tmem_host_${key}_total [0-9]"
	done < <(sed -nE 's/^TM_HOST_COUNTER\(([a-z_]+), "(.*)"\)/\1 \2/p' "$REPO/tools/common/counters.def")
}

# --- the budget --------------------------------------------------------------------------------

# cgroup BYTES: a memory cgroup with that limit, in $CGROUP; skips where there is none to be had.
cgroup() {
	local top=/sys/fs/cgroup limit=memory.max
	if [ -d $top/memory ]; then
		top=$top/memory limit=memory.limit_in_bytes
	elif ! grep -qw memory $top/cgroup.subtree_control 2>/dev/null; then
		skip "no memory cgroup"
	fi
	CGROUP=$top/tmem-test-$$-$BATS_TEST_NUMBER
	mkdir "$CGROUP" 2>/dev/null || skip "no cgroup may be made"
	defer "retry 10 rmdir $CGROUP"
	echo "$1" >"$CGROUP/$limit"
	LIMIT=$CGROUP/$limit
}

of_host() { tmemctl list --json | jq ".host.$1"; }
host_is() { [ "$(of_host "$1")" = "$2" ]; }

@test "the limits of the cgroup it runs in bound the budget, and may change" {
	cgroup $((256 << 20))
	bash -c 'echo $$ >"$1/cgroup.procs" && exec tmemd' - "$CGROUP" 3>&-
	[ "$(of_host cgroup_limit_bytes)" = $((256 << 20)) ]
	[ "$(of_host memory_bytes)" = $((256 << 20)) ]
	[ "$(of_host limit_bytes)" = $((128 << 20)) ]
	[ "$(of_host reserve_bytes)" = $(((256 << 20) / 10)) ]
	[ "$(of_host available_bytes)" -le $((256 << 20)) ]
	client a -n a -w 1G
	[ "$(of a granted_bytes)" -le $((128 << 20)) ]
	"$B/tmemctl" watch --json >"$T/events" 3>&- &
	defer "kill $!"
	retry 10 host_is watchers 1
	client b -n b -e 100M
	echo $((64 << 20)) >"$LIMIT"
	retry 20 grep -q '"pressure"' "$T/events"
	retry 10 host_is limit_bytes $((32 << 20))
	[ "$(of a granted_bytes)" -le $((32 << 20)) ]
}

@test "the kernel's pressure wakes it, where there is such a thing" {
	[ -w /proc/pressure/memory ] || skip "no PSI"
	host
	host_is psi true
	[ -n "$(find "/proc/$(host_pid)/fd" -lname /proc/pressure/memory)" ]
}

# --- clients that are stuck, hosts that are killed ---------------------------------------------------

@test "a stopped client does not hold up the others" {
	host
	client a -n stuck -e 100M
	stuck=$CLIENT
	client b -n fine -e 100M
	full() { [ "$(of "$1" freeable_bytes)" -ge $((10 << 20)) ]; }
	retry 20 full stuck
	retry 20 full fine
	stop $stuck
	"$B/tmemctl" flush 1G >"$T/out" 2>"$T/err" 3>&- &
	pid=$!
	try 0 tmemctl list
	try 0 tmemctl flush 10M fine # whatever the other flush has left of it
	status=0
	wait $pid || status=$?
	[ "$status" = 1 ]
	contains_file "$T/err" "1 client did not answer"
	grep -q "released" "$T/out"
	try 1 tmemctl destroy stuck
	contains "does not answer"
	kill -CONT $stuck
	retry 10 clients_are 1
	grep -q destroyed "$T/a.log"
}

contains_file() { grep -qF "$2" "$1" || { cat "$1"; return 1; }; }

@test "kill -9 of tmemd: clients join the next one, freeze and compress survive" {
	host
	client a -n a -e 10M
	client b -n b
	tmemctl freeze a
	tmemctl set b compress=none
	kill -9 "$(host_pid)"
	try 3 tmemctl list
	host
	retry 10 clients_are 2
	is a frozen true
	is b frozen false
	is b compress none
	is a used_bytes $((10 << 20))
	# And from nothing: a client that may starts one.
	stop_host
	"$B/tests/client" -n c -d >"$T/c.log" 3>&- &
	defer "kill $!"
	retry 10 clients_are 3
}

@test "kill -9 of tmemd: a freeze of all meets those that join the next one" {
	host
	tmemctl freeze
	kill -9 "$(host_pid)"
	retry 10 host
	client a -n a
	is a frozen true
	[ "$(tmemctl list --json | jq .host.frozen)" = true ]
	tmemctl thaw
	is a frozen false
	stop_host
	retry 10 host
	retry 10 clients_are 1 # a is back
	client b -n b
	is b frozen false
}

@test "a client that starts its host leaves it neither descriptors nor zombies" {
	echo >"$T/marker"
	exec 7<"$T/marker"
	"$B/tests/client" -d -n a >/dev/null 3>&- &
	CLIENT=$!
	defer "kill $CLIENT"
	retry 10 clients_are 1
	[ -z "$(find "/proc/$(host_pid)/fd" -lname "*/marker")" ]
	[ "$(readlink "/proc/$(host_pid)/fd/0")" = /dev/null ]
	[ -z "$(ps -o stat= --ppid $CLIENT)" ]
}
