#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The control protocol, badly spoken

load helpers
load host

replay=$REPO/tests/helpers/replay

@test "greeting, reply, id" {
	host
	run talk '{"execute":"list","id":{"any":"value"}}
'
	[ "$(jq -c '.tmem.protocol' <<<"${lines[0]}")" = 1 ]
	[ "$(jq -c '.id' <<<"${lines[1]}")" = '{"any":"value"}' ]
	jq -e '.return.host' <<<"${lines[1]}"
}

@test "query-schema lists every command" {
	host
	run talk '{"execute":"query-schema"}
{"execute":"help"}
'
	[ "$(jq -c '[.return.commands[].name]' <<<"${lines[1]}")" = \
		'["join","released","keep","leave","reclaim","list","freeze","thaw","freeable","flush","policy","set","destroy","save","restore","transferred","shared-auth","watch","query-schema","help"]' ]
	[ "${lines[1]}" = "${lines[2]}" ]
}

@test "refusals have a class and a reason, and the connection goes on" {
	host
	client a -n a
	while IFS='|' read -r class text request; do
		run talk "$request
" '{"execute":"list"}
'
		[ "${#lines[@]}" = 3 ] || { echo "$request: $output"; return 1; }
		[ "$(jq -r .error.class <<<"${lines[1]}")" = "$class" ] || { echo "$request: ${lines[1]}"; return 1; }
		[[ $(jq -r .error.desc <<<"${lines[1]}") == *"$text"* ]] || { echo "$request: ${lines[1]}"; return 1; }
		jq -e .return <<<"${lines[2]}"
	done <<-'EOT'
		ProtocolError|no JSON object|garbage
		ProtocolError|no JSON object|[1,2,3]
		ProtocolError|no JSON object|{"execute":"list"
		ProtocolError|no JSON object|{"execute":"list","execute":"freeze"}
		ProtocolError|string 'execute'|{}
		ProtocolError|string 'execute'|{"execute":7}
		ProtocolError|unknown key 'extra'|{"execute":"list","extra":1}
		ProtocolError|'arguments' is not an object|{"execute":"list","arguments":[]}
		CommandNotFound|no command 'frobnicate'|{"execute":"frobnicate"}
		InvalidParameter|takes no argument 'x'|{"execute":"list","arguments":{"x":1}}
		InvalidParameter|needs 'client'|{"execute":"set","arguments":{"weight":1}}
		InvalidParameter|needs weight, cap, compress or recompress|{"execute":"set","arguments":{"client":"a"}}
		InvalidParameter|'weight' has to be|{"execute":"set","arguments":{"client":"a","weight":"1"}}
		InvalidParameter|'cap' has to be|{"execute":"set","arguments":{"client":"a","cap":-1}}
		InvalidParameter|'client' has to be|{"execute":"freeze","arguments":{"client":[]}}
		InvalidParameter|needs 'bytes'|{"execute":"flush"}
		InvalidParameter|carry a socket|{"execute":"save","arguments":{"client":"a"}}
		InvalidParameter|carry a socket|{"execute":"restore","arguments":{"client":"a"}}
		InvalidParameter|'live' has to be|{"execute":"save","arguments":{"client":"a","live":1}}
		NotPermitted|is for clients|{"execute":"transferred","arguments":{"ticket":1,"pages":0,"skipped":0,"bytes":0,"pause_ns":0}}
		InvalidParameter|'force' has to be|{"execute":"destroy","arguments":{"client":"a","force":1}}
		NoSuchClient|no client 'b'|{"execute":"freeze","arguments":{"client":"b"}}
		NoSuchClient|no client '-1'|{"execute":"freeze","arguments":{"client":-1}}
		NotPermitted|is for clients|{"execute":"released","arguments":{"ticket":1,"bytes":1}}
		InvalidParameter|descriptor|{"execute":"join","arguments":{"name":"a","type":"b","pid":1,"protocol":1}}
		InvalidParameter|weight has to be 1 to 10000|{"execute":"join","arguments":{"name":"a","type":"b","pid":1,"protocol":1,"weight":0}}
		InvalidParameter|'successor' has to be boolean|{"execute":"join","arguments":{"name":"a","type":"b","pid":1,"protocol":1,"successor":1}}
		WrongVersion|protocol 1, the client 2|{"execute":"join","arguments":{"name":"a","type":"b","pid":1,"protocol":2}}
		InvalidParameter|1 to 63 bytes|{"execute":"join","arguments":{"name":"","type":"b","pid":1,"protocol":1}}
	EOT
	is a weight 100
}

@test "join with a descriptor that is no ledger" {
	host
	run python3 - "$TMEM_SOCKET" <<-'PY'
		import array, os, socket, sys
		def join(fds):
		    s = socket.socket(socket.AF_UNIX)
		    s.connect(sys.argv[1])
		    f = s.makefile()
		    f.readline()
		    s.sendmsg([b'{"execute":"join","arguments":{"name":"x","type":"y","pid":1,"protocol":1}}\n'],
		              [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))])
		    print(f.readline(), end='')
		m = os.memfd_create('m', os.MFD_ALLOW_SEALING)
		os.ftruncate(m, 1 << 20)
		join([0])
		join([m])
		join([m] * 20)
	PY
	[ "$status" = 0 ]
	[ "$(grep -c InvalidParameter <<<"$output")" = 3 ]
	clients_are 0
	[ "$(find "/proc/$(host_pid)/fd" -lname '*memfd*' | wc -l)" = 0 ]
}

@test "half a message, a line of 10 MB, a peer that dies: the others go on" {
	host
	client a -n a
	run talk '{"execute":"fre'
	one_line # the greeting
	python3 -c 'print("x" * 10000000)' >"$T/long"
	run python3 - "$TMEM_SOCKET" "$T/long" <<-'PY'
		import socket, sys
		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		f = s.makefile()
		f.readline()
		try:
		    s.sendall(open(sys.argv[2], 'rb').read())
		except OSError:
		    pass
		print(f.readline(), end='')
	PY
	contains "more than 1048576 bytes"
	[ "$(awk '/VmHWM/ {print $2}' "/proc/$(host_pid)/status")" -lt 32768 ]
	# A client that dies in the middle of its answer.
	run python3 - "$TMEM_SOCKET" "$CLIENT" <<-'PY'
		import os, socket, sys
		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		s.send(b'{"execute":"released","argu')
		os.kill(os.getpid(), 9)
	PY
	try 0 tmemctl list
	is a frozen false
}

@test "a peer that does not read its replies is not waited for" {
	host
	client a -n a -p p1 -p p2 -p p3 -p p4
	python3 - "$TMEM_SOCKET" "$T/ready" <<-'PY' 3>&- &
		import socket, sys, time
		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		s.settimeout(1)
		try:
		    while True:
		        s.sendall(b'{"execute":"list"}\n' * 100)
		except OSError:
		    open(sys.argv[2], 'w')
		time.sleep(1000)
	PY
	defer "kill $!"
	retry 20 test -e "$T/ready"
	try 0 tmemctl list
	[ "$(awk '/VmRSS/ {print $2}' "/proc/$(host_pid)/status")" -lt 65536 ]
	only_us() { [ "$(find "/proc/$(host_pid)/fd" -lname 'socket:*' | wc -l)" -le 5 ]; }
	retry 30 only_us # two listening sockets, two launchers and the client; it has been dropped
}

@test "at most 256 control connections" {
	host
	run python3 - "$TMEM_SOCKET" <<-'PY'
		import socket, sys
		held = []
		for i in range(257):
		    s = socket.socket(socket.AF_UNIX)
		    s.connect(sys.argv[1])
		    held.append(s)
		    line = s.makefile().readline()
		    assert ('"tmem"' in line) == (i < 256), (i, line)
		print(line, end='')
	PY
	[ "$status" = 0 ]
	contains '"class":"Busy"'
	retry 10 tmemctl list
}

@test "tmem-protocol(7): every exchange is what a host says" {
	host
	client photos -n /srv/photos -t tmemfs -e 247463936
	photos=$CLIENT
	client swap -n swap0 -t nbd -p swap0:persistent
	try 0 "$replay" "$REPO/man/tmem-protocol.7" operator "$photos"
	try 0 "$replay" "$REPO/man/tmem-protocol.7" client "$photos"
	retry 10 clients_are 2
	# An orphan: it kept a store and died.
	cat >"$T/orphan" <<-'EOT'
		.\" exchange orphan
		{"tmem":{"version":"0.1","protocol":1,"capabilities":[]}}
		> {"execute":"join","arguments":{"name":"orphan","type":"nbd","pid":1,"protocol":1}} (with a ledger)
		{"return":{"id":3}}
		> {"execute":"keep","arguments":{"what":"store"}} (with a descriptor)
		{"return":{}}
		.\" end
	EOT
	try 0 "$replay" "$T/orphan" orphan "$photos"
	retry 10 is orphan alive false
	try 0 "$replay" "$REPO/man/tmem-protocol.7" successor "$photos"
	tmemctl destroy --force orphan
	try 0 "$replay" "$REPO/man/tmem-protocol.7" watcher "$photos"
	# And a line that is not what the host says is found.
	sed 's/247463936/247463937/' "$REPO/man/tmem-protocol.7" >"$T/wrong"
	try 1 "$replay" "$T/wrong" operator "$photos"
}

@test "tmem-protocol(7): its tables are those of the program" {
	diff <(sed -n '/^\.\\" generated/,/^\.\\" end/p' "$REPO/man/tmem-protocol.7" | sed '1d;$d') <("$B/tmemctl" --manual)
	groff -man -ww -z "$REPO"/man/tmem-*.7 2>&1 | not grep .
}

# A place that every user can reach, with the programs in it: $D.
public_place() {
	D=$(mktemp -d)
	defer "rm -rf $D"
	chmod 755 "$D"
	cp "$B/tmemd" "$B/tmemctl" "$D"
}

as_nobody() { setpriv --reuid=65534 --clear-groups "$@"; }

@test "other users are refused" {
	public_place
	export TMEM_SOCKET=$D/control.sock
	defer stop_host # before $D goes
	host
	try 1 as_nobody "$D/tmemctl" list
	contains "Permission denied"
	one_line
	# Even if somebody opens the socket up.
	chmod 666 "$TMEM_SOCKET"
	try 1 as_nobody "$D/tmemctl" list
	contains "only root, the user of this tmemd and the group tmem"
	one_line
}

@test "a user has a host of his own, which root may use too" {
	public_place
	export XDG_RUNTIME_DIR=$D/run
	mkdir -m 700 "$D/run"
	chown 65534 "$D/run"
	unset TMEM_SOCKET
	as_nobody "$D/tmemd" 3>&-
	defer "kill $(host_pid "$D/run/tmem/control.sock")"
	[ "$(stat -c '%a %u' "$D/run/tmem")" = "700 65534" ]
	try 0 as_nobody "$D/tmemctl" list
	try 0 tmemctl -S "$D/run/tmem/control.sock" list
}

@test "what outlives a client: refusals of keep, leave and reclaim" {
	host
	while IFS='|' read -r class text request; do
		run talk "$request
{\"execute\":\"list\"}
"
		[ "$(jq -r .error.class <<<"${lines[1]}")" = "$class" ] || { echo "$output"; return 1; }
		contains "$text"
		[ "$(jq -r '.return.host.version' <<<"${lines[2]}")" != null ] # the connection goes on
	done <<-'EOF'
	NotPermitted|for clients, after join|{"execute":"keep","arguments":{"what":"store"}}
	NotPermitted|for clients, after join|{"execute":"leave"}
	InvalidParameter|what is store or state|{"execute":"reclaim","arguments":{"name":"a","type":"b","what":"soul"}}
	InvalidParameter|needs 'what'|{"execute":"reclaim","arguments":{"name":"a","type":"b"}}
	NoSuchClient|nothing was left here|{"execute":"reclaim","arguments":{"name":"a","type":"b","what":"store"}}
	EOF
	client a -n a # alive: its memory is nobody else's
	run talk '{"execute":"reclaim","arguments":{"name":"a","type":"test","what":"store"}}
'
	contains NoSuchClient
}
