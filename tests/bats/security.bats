#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# docs/security.md: privileges, roles, limits, and ten thousand peers that mean no good

load helpers
load host

of_host() { tmemctl list --json | jq ".host.$1"; }
host_is() { [ "$(of_host "$1")" = "$2" ]; }

status_is() { # KEY VALUE
	[ "$(awk -v k="$1:" '$1 == k { print $2 }' "/proc/$(host_pid)/status")" = "$2" ]
}

@test "of root's privileges the host keeps the right to lock memory, and can get none back" {
	host
	status_is CapEff 0000000000004000 # CAP_IPC_LOCK
	status_is CapPrm 0000000000004000
	status_is CapInh 0000000000000000
	status_is CapBnd 0000000000000000
	status_is CapAmb 0000000000000000
	status_is NoNewPrivs 1
	# With that it still does its work: it maps ledgers, and removes its socket.
	client a -n a
	tmemctl freeze a
	stop_host
	retry 10 test ! -e "$TMEM_SOCKET"
}

@test "under the filter of system calls once it serves, as is a pool's server" {
	host
	if grep -q errno /proc/sys/kernel/seccomp/actions_avail 2>/dev/null && ! nm -D "$B/tmemd" | grep -q __asan_init; then
		status_is Seccomp 2
	else
		status_is Seccomp 0 # and goes on, after a line in the log
	fi
	# What it needs for its work it still may do: be shared, managed and stopped.
	client a -n a
	try 0 tmemctl list
	try 0 tmemctl freeze
	stop_host
	retry 10 test ! -e "$TMEM_SOCKET"
	foreground_log() { timeout 5 tmemd -f -S "$T/other" 2>&1 | head -n 3; }
	if ! grep -q errno /proc/sys/kernel/seccomp/actions_avail 2>/dev/null; then
		[[ $(foreground_log) == *"no filter of system calls"* ]]
	fi
}

@test "pages are not in core dumps" {
	host
	"$B/tests/putter" -n a -s 8M >/dev/null 3>&- &
	defer "kill $!"
	stored() { [ "$(of a used_bytes)" -ge $((8 << 20)) ]; }
	retry 30 stored
	# The mapping of the store is the largest of all, and none of its parts is dumped.
	awk '/^[0-9a-f]+-[0-9a-f]+ / { store = $0 ~ /rw-s/ && $0 !~ /tmem-ledger/ }
		/^Rss:/ && store && $2 > 1024 { big++ } /^VmFlags:/ && store && $0 !~ / dd/ { bad++ }
		END { exit !(big > 0 && bad == 0) }' "/proc/$!/smaps"
}

# in_memory PID: how often the mark is in what the process has in memory.
in_memory() {
	python3 - "$1" <<-'PY'
		import re, sys
		count = 0
		with open(f"/proc/{sys.argv[1]}/maps") as maps, open(f"/proc/{sys.argv[1]}/mem", "rb", 0) as mem:
		    for line in maps:
		        low, high, mode = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
		        if not mode.startswith("rw"):
		            continue
		        try:
		            mem.seek(int(low, 16))
		            count += mem.read(int(high, 16) - int(low, 16)).count(b"a mark " + b"of the first client")
		        except (OSError, ValueError, OverflowError):
		            pass
		print(count)
	PY
}

@test "no client has what another one stored, nor has the host" {
	requires nbdkit nbdcopy
	host
	serve() {
		nbdkit -U "$T/$1.sock" -P "$T/$1.pid" "$B/nbdkit-tmem-plugin.so" pool="$1" size=16M limit=32M lock=no 2>/dev/null 3>&-
		retry 10 test -s "$T/$1.pid"
		defer "kill \$(cat $T/$1.pid)"
		joined() { of "$1" id | grep -q .; }
		retry 10 joined "$1"
	}
	# Pages that do not compress are stored as they are; each begins with the mark.
	python3 -c 'import os, sys
for _ in range(2048): sys.stdout.buffer.write(b"a mark of the first client" + os.urandom(4096 - 26))' >"$T/marked"
	serve one
	nbdcopy "$T/marked" "nbd+unix:///?socket=$T/one.sock"
	[ "$(in_memory "$(cat "$T/one.pid")")" -ge 2048 ]
	kill -9 "$(cat "$T/one.pid")"
	orphan() { is one alive false; }
	retry 10 orphan
	[ "$(in_memory "$(host_pid)")" = 0 ]
	tmemctl destroy --force one
	# The next one fills its memory with something else, sparsely.
	serve two
	python3 -c 'import os, sys
for _ in range(3000): sys.stdout.buffer.write(os.urandom(2000) + bytes(2096))' >"$T/other"
	nbdcopy "$T/other" "nbd+unix:///?socket=$T/two.sock"
	[ "$(in_memory "$(cat "$T/two.pid")")" = 0 ]
	[ "$(in_memory "$(host_pid)")" = 0 ]
}

# Somewhere that every user can reach, with the programs in it: $D. The group tmem is 54321 in there.
public_place() {
	D=$(mktemp -d)
	defer "rm -rf $D"
	chmod 755 "$D"
	cp "$B/tmemctl" "$B/tmemstat" "$D"
	{
		grep -v ^tmem: /etc/group
		echo tmem:x:54321:
	} >"$D/group"
	export TMEM_SOCKET=$D/control.sock
}

@test "the group tmem may look; others nothing; managing takes root" {
	public_place
	unshare -m bash -c 'mount --bind "$0/group" /etc/group && exec "$1"' "$D" "$B/tmemd" 3>&- || skip "no mount namespace"
	defer stop_host
	[ "$(stat -c '%a %u %g' "$TMEM_SOCKET")" = "660 0 54321" ]
	client a -n a -e 10M -p pool
	reader=(setpriv --reuid=65534 --regid=65534 --groups=54321)
	primary=(setpriv --reuid=65534 --regid=54321 --clear-groups)
	other=(setpriv --reuid=65534 --regid=65534 --clear-groups)
	for who in reader primary; do
		declare -n as=$who
		for c in list freeable "list --json"; do
			try 0 "${as[@]}" "$D/tmemctl" $c
		done
		try 0 "${as[@]}" "$D/tmemstat"
		for c in "freeze a" freeze thaw "flush 1M" "set a weight=1" "destroy --force a"; do
			try 1 "${as[@]}" "$D/tmemctl" $c
			contains "is for root and the user of this tmemd"
			one_line
		done
	done
	for request in '{"execute":"join","arguments":{"name":"a","type":"b","pid":1,"protocol":1}}' \
		'{"execute":"reclaim","arguments":{"name":"a","type":"b","what":"store"}}'; do
		run python3 - "$TMEM_SOCKET" "$request" <<-'PY'
			import os, socket, sys
			os.setgroups([54321])
			os.setresgid(65534, 65534, 65534)
			os.setresuid(65534, 65534, 65534)
			s = socket.socket(socket.AF_UNIX)
			s.connect(sys.argv[1])
			f = s.makefile()
			f.readline()
			s.sendall(sys.argv[2].encode() + b'\n')
			print(f.readline())
		PY
		contains NotPermitted
	done
	try 1 "${other[@]}" "$D/tmemctl" list
	contains "Permission denied"
	chmod 666 "$TMEM_SOCKET" # even then
	try 1 "${other[@]}" "$D/tmemctl" list
	contains "only root, the user of this tmemd and the group tmem"
	host_is connections_refused 1
	is a frozen false
}

@test "a client reaches its own pools only" {
	host
	client other -n other -p pool -e 10M
	# As a client that has joined, say everything an operator could say.
	cat >"$T/client" <<-EOT
		.\\" exchange client
		{"tmem":{"version":"0.1","protocol":1,"capabilities":[]}}
		> {"execute":"join","arguments":{"name":"evil","type":"b","pid":1,"protocol":1}} (with a ledger)
		{"return":{"id":2}}
	EOT
	for c in list freeze thaw freeable flush set destroy watch join reclaim; do
		cat >>"$T/client" <<-EOT
			> {"execute":"$c","arguments":{"client":"other"}}
			{"error":{"class":"NotPermitted","desc":"$c is not for a connection that has joined"}}
		EOT
	done
	cat >>"$T/client" <<-EOT
		> {"execute":"released","arguments":{"ticket":1,"bytes":9223372036854775807}}
		{"return":{}}
		.\\" end
	EOT
	try 0 "$REPO/tests/helpers/replay" "$T/client" client "$CLIENT"
	is other frozen false
	is other used_bytes $((10 << 20))
}

@test "limits have parameters and counters" {
	host --max-clients 2 --max-connections 3 --max-line 2000 --max-rate 50
	client a -n a
	client b -n b
	"$B/tests/client" -n c >/dev/null 3>&- &
	defer "kill $!"
	retry 20 host_is clients_refused 1
	clients_are 2
	run talk "{\"execute\":\"list\",\"x\":\"$(printf 'x%.0s' {1..3000})\"}
"
	contains "a line has more than 2000 bytes"
	host_is lines_refused 1
	run python3 - "$TMEM_SOCKET" <<-'PY'
		import socket, sys
		held = []
		for i in range(4):
		    s = socket.socket(socket.AF_UNIX)
		    s.connect(sys.argv[1])
		    held.append(s)
		    print(s.makefile().readline(), end='')
	PY
	contains "too many connections"
	# Two hundred at once: they wait, and all are answered; somebody else is served meanwhile.
	run python3 - "$TMEM_SOCKET" <<-'PY'
		import socket, sys
		a, b = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
		a.connect(sys.argv[1])
		fa = a.makefile()
		fa.readline()
		a.sendall(b'{"execute":"freeable"}\n' * 200)
		b.connect(sys.argv[1])
		fb = b.makefile()
		fb.readline()
		b.sendall(b'{"execute":"freeable"}\n')
		fb.readline()
		print(sum('return' in fa.readline() for i in range(200)))
	PY
	[ "$output" = 200 ]
	[ "$(of_host requests_delayed)" -ge 1 ]
	[ "$(of_host connections_refused)" -ge 1 ]
	for wrong in --max-clients=0 --max-clients=257 --max-line=10 --max-rate=x --max-connections=-1; do
		try 2 tmemd $wrong
		contains "is no number from"
	done
}

# Random sessions: garbage, requests of every kind, halves of them, descriptors, long lines, peers that send and do not
# read, that read and do not send, that vanish. SESSIONS=N for more than make check has time for.
@test "a storm of random sessions neither stops the host nor makes it grow" {
	host
	client fine -n fine -e 10M -p pool
	before=$(awk '/^VmRSS/ { print $2 }' "/proc/$(host_pid)/status")
	try 0 timeout 500 "$REPO/tests/helpers/storm" "${SESSIONS:-10000}"
	try 0 tmemctl list
	is fine id 1
	is fine used_bytes $((10 << 20))
	only_us() { [ "$(find "/proc/$(host_pid)/fd" -lname 'socket:*' | wc -l)" -le 6 ]; }
	retry 30 only_us # log, two listening sockets, two launchers, the client; the silent ones were dropped
	[ "$(find "/proc/$(host_pid)/fd" -lname '*memfd*' | wc -l)" -le 1 ]
	after=$(awk '/^VmRSS/ { print $2 }' "/proc/$(host_pid)/status")
	# AddressSanitizer keeps what is freed for a while.
	[[ $B == */asan ]] || [ "$after" -lt $((before + 16384)) ]
	tmemctl freeze fine
	is fine frozen true
}

# SOAK=SECONDS for more. With TM_BUILD=build/asan: ASAN_OPTIONS=quarantine_size_mb=1, or freed memory counts.
@test "mixed load: clients that come, go and die, freezes, flushes, strangers: the host's memory stays flat" {
	local end third kb pid=() i=0 first=
	host -l 128M -r 0
	client fine -n fine -e 10M -p pool
	mkdir "$T/src" "$T/mnt"
	head -c 20M /dev/urandom >"$T/src/file"
	"$B/tmemfs" "$T/src" "$T/mnt" >/dev/null 3>&- && defer "fusermount3 -u $T/mnt"
	end=$((SECONDS + ${SOAK:-12})) third=$((SECONDS + ${SOAK:-12} / 3))
	while [ $SECONDS -lt $end ]; do
		i=$((i + 1))
		"$B/tests/putter" -n "q$((i % 3))" -s 4M -w $((1 + i % 500)) >/dev/null 2>&1 3>&- &
		pid+=($!)
		"$B/tests/putter" -n "k$((i % 3))" -k -s 4M >/dev/null 2>&1 3>&- &
		pid+=($!)
		tmemctl freeze
		tmemctl thaw
		tmemctl flush 8M || true
		tmemctl set fine weight=$((1 + i % 1000)) cap=none
		cat "$T/mnt/file" >/dev/null
		"$REPO/tests/helpers/storm" 50 $i
		kill -$((i % 2 ? 9 : 15)) "${pid[@]}"
		wait "${pid[@]}" || true
		pid=()
		kb=$(awk '/^VmRSS/ { print $2 }' "/proc/$(host_pid)/status")
		[ -n "$first" ] || [ $SECONDS -lt $third ] || first=$kb
	done
	echo "$i rounds, VmRSS $first then $kb KiB"
	[ "$kb" -lt $((${first:-$kb} + 4096)) ]
	retry 20 clients_are 2
	is fine id 1
	[ "$(find "/proc/$(host_pid)/fd" -lname '*memfd*' | wc -l)" -le 1 ]
}
