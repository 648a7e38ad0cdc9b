#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The control plane: tmemd, tmemctl and tmemstat with clients that have no store (tests/helpers/client.c).

load helpers

PATH=$PATH:$B/tests
export TMEM_TMEMD=$B/tmemd

test_setup() {
	defer stop_host
}

# host [OPTION...]: start tmemd; it listens when this returns.
host() { "$B/tmemd" "$@" 3>&-; }

host_pid() { head -n 1 "${1:-$TMEM_SOCKET}.lock"; }

stop_host() { kill -CONT "$(host_pid)"; kill "$(host_pid)"; }

# client LOG OPTION...: a client in the background, joined when this returns. Its pid is in $CLIENT.
client() {
	local log=$T/$1.log before
	shift
	before=$(clients)
	"$B/tests/client" "$@" >"$log" 3>&- &
	CLIENT=$!
	defer "kill -CONT $CLIENT; kill $CLIENT"
	retry 10 clients_are $((before + 1))
}

clients() { tmemctl list --json 2>/dev/null | jq '.clients | length' || echo 0; }
clients_are() { [ "$(clients)" = "$1" ]; }

# of NAME KEY: a number of a client.
of() { tmemctl list --json | jq -r --arg n "$1" ".clients[] | select(.name == \$n) | .$2"; }
is() { [ "$(of "$1" "$2")" = "$3" ] || { echo "$1 $2 is $(of "$1" "$2"), not $3"; return 1; }; }

# talk [BYTES...]: send lines to the host as they are, print what it says.
talk() {
	python3 - "$TMEM_SOCKET" "$@" <<-'PY'
		import socket, sys
		s = socket.socket(socket.AF_UNIX)
		s.settimeout(10)
		s.connect(sys.argv[1])
		try:
		    for text in sys.argv[2:]:
		        s.sendall(text.encode('utf-8', 'surrogateescape'))
		    s.shutdown(socket.SHUT_WR)
		except OSError:
		    pass
		while True:
		    try:
		        data = s.recv(65536)
		    except ConnectionResetError:
		        break
		    if not data:
		        break
		    sys.stdout.write(data.decode())
	PY
}

# --- starting and stopping ---------------------------------------------------------------------

@test "help and version" {
	for p in tmemd tmemctl tmemstat; do
		try 0 "$B/$p" --help
		contains "usage: $p"
		try 0 "$B/$p" --version
		contains "$p 0.1"
		one_line
	done
	for c in list freeze thaw freeable flush set destroy help; do
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
	for c in list freeze thaw freeable "flush 1M" "set a weight=1" "destroy a"; do
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

# --- commands ------------------------------------------------------------------------------------

@test "list shows clients and pools" {
	host -l 1G
	client a -n /srv/a -t tmemfs -p files -p more -e 10M
	client b -n swap -t nbd -p swap:persistent -k 10M
	try 0 tmemctl list
	contains "/srv/a"
	contains "persistent"
	is swap id 2
	is swap pid "$CLIENT"
	is swap type nbd
	is swap weight 100
	is swap cap_bytes null
	is swap persistent_bytes 10485760
	is /srv/a freeable_bytes 10485760
	[ "$(tmemctl list --json | jq -c '[.clients[].pools[].name]')" = '["files","more","swap"]' ]
	[ "$(tmemctl list --json | jq -c '.clients[1].pools[0] | [.client, .type, .id, .order, .pages]')" = \
		'["swap","persistent",0,0,1000]' ]
	# Every counter of the table is there.
	for key in $(sed -nE 's/^TM_STAT\([A-Z_]+, ([a-z_]+),.*/\1/p' "$REPO/core/stats.def"); do
		tmemctl list --json | jq -e ".clients[0].pools[0] | has(\"$key\")"
	done
	tmemctl list --json >"$T/json"
	[ "$(wc -l <"$T/json")" = 1 ]
}

@test "ids are the lowest free; clients leave when they end" {
	host
	client a -n a
	first=$CLIENT
	client b -n b
	client c -n c
	kill -9 $first
	retry 10 clients_are 2
	client d -n d
	is d id 1
	try 4 tmemctl freeze a
}

@test "clients by id, by name; unknown and ambiguous ones" {
	host
	client a -n twin
	client b -n twin
	client c -n 1
	try 0 tmemctl freeze 2
	[ "$(tmemctl list --json | jq -c '[.clients[].frozen]')" = '[false,true,false]' ]
	try 4 tmemctl freeze twin
	contains "2 clients are called 'twin'"
	one_line
	try 4 tmemctl freeze 1
	contains "use the id"
	try 4 tmemctl freeze 99
	contains "no client '99'"
	try 4 tmemctl set nobody weight=1
	try 4 tmemctl flush 1M nobody
	try 4 tmemctl freeable nobody
	try 4 tmemctl destroy nobody
}

@test "freeze and thaw, one and all, and who joins later" {
	host
	client a -n a
	client b -n b
	tmemctl freeze a
	is a frozen true
	is b frozen false
	tmemctl thaw a
	is a frozen false
	tmemctl freeze
	is b frozen true
	client c -n c
	is c frozen true
	[ "$(tmemctl list --json | jq .host.frozen)" = true ]
	tmemctl thaw c
	is c frozen false
	is a frozen true
	tmemctl thaw
	client d -n d
	is a frozen false
	is d frozen false
}

@test "freeable and flush" {
	host
	client a -n a -e 300M
	client b -n b -e 100M
	client c -n c -k 50M
	[ "$(tmemctl freeable --json | jq .freeable_bytes)" = $((400 << 20)) ]
	[ "$(tmemctl freeable --json b | jq .freeable_bytes)" = $((100 << 20)) ]
	try 0 tmemctl freeable
	contains "400M"
	# Whoever is over its share gives first.
	try 0 tmemctl flush 150M
	contains "released 150M"
	is a freeable_bytes $((150 << 20))
	is b freeable_bytes $((100 << 20))
	try 0 tmemctl flush 30M b
	is b freeable_bytes $((70 << 20))
	# More than there is.
	try 0 tmemctl flush 1G
	contains "released 220M"
	is c used_bytes $((50 << 20))
	try 0 tmemctl flush 1G
	contains "released 0"
}

@test "set: weight, cap, compress" {
	host -l 300M -r 0
	client a -n a -w 1G
	client b -n b -w 1G -e 200M
	is a granted_bytes $((150 << 20))
	try 0 tmemctl set a weight=200
	is a granted_bytes $((200 << 20))
	# b had more than what is left to it: it was told to shrink, and did.
	retry 10 grep -q "shrink" "$T/b.log"
	retry 10 is b used_bytes $((100 << 20))
	try 0 tmemctl set a cap=10M compress=none
	is a granted_bytes $((10 << 20))
	is a compress none
	is b granted_bytes $((290 << 20))
	try 0 tmemctl set a cap=none compress=lz4 weight=100
	is a cap_bytes null
	is a compress lz4
	is a granted_bytes $((150 << 20))
	# Refused as a whole.
	try 1 tmemctl set a cap=1M weight=0
	contains "weight has to be 1 to 10000"
	is a cap_bytes null
	try 1 tmemctl set a weight=10001
}

@test "grants never exceed the total; persistent memory comes first" {
	host -l 100M -r 0
	client a -n mount -w 1G -e 100M
	client b -n swap -w 80M -k 80M
	is swap granted_bytes $((80 << 20))
	is mount granted_bytes $((20 << 20))
	retry 10 is mount used_bytes $((20 << 20))
	[ "$(tmemctl list --json | jq '.host.granted_bytes <= .host.total_bytes')" = true ]
}

@test "destroy: refused for persistent pages, unless forced" {
	host
	client a -n mount -p files
	client b -n swap -p swap:persistent
	try 1 tmemctl destroy swap
	contains "needs force"
	one_line
	is swap id 2
	try 0 tmemctl destroy --force swap
	try 0 tmemctl destroy mount
	clients_are 0
	grep -q destroyed "$T/a.log"
	grep -q destroyed "$T/b.log"
}

# --- tmemstat --------------------------------------------------------------------------------------

@test "tmemstat: totals, then rates" {
	host
	client a -n mount -t tmemfs -p files -b
	try 0 tmemstat 0.2 3
	contains "since start"
	contains "per second"
	[ "$(grep -c '^mount  *files ' <<<"$output")" = 3 ]
	for line in "${lines[@]}"; do [ ${#line} -le 100 ]; done
	try 0 tmemstat files
	try 0 tmemstat mount/files
	try 4 tmemstat nothing
	contains "no pool 'nothing'"
	one_line
}

@test "tmemstat --json: an object a line, keys as in list" {
	host
	client a -n mount -p files -p more -b
	tmemstat --json files 0.1 3 >"$T/json"
	[ "$(wc -l <"$T/json")" = 3 ]
	[ "$(jq -s 'map(.pools | length) | unique == [1]' "$T/json")" = true ]
	[ "$(jq -s '.[2].pools[0].puts > .[0].pools[0].puts' "$T/json")" = true ]
	[ "$(head -n 1 "$T/json" | jq -c '.pools[0] | keys')" = \
		"$(tmemctl list --json | jq -c '.clients[0].pools[0] | keys')" ]
}

@test "the manual's counters are those of the table" {
	try 0 sed -nE 's/^TM_STAT\([A-Z_]+, ([a-z_]+), ([A-Z]+), [A-Z]+, "(.*)"\)/\1|\L\2|\E\3/p' "$REPO/core/stats.def"
	[ "${#lines[@]}" = "$(grep -c '^TM_STAT(' "$REPO/core/stats.def")" ]
	for line in "${lines[@]}"; do
		IFS='|' read -r key kind help <<<"$line"
		grep -qFA 1 ".BR $key \" ($kind)\"" "$REPO/man/tmemstat.8" || { echo "$key ($kind)"; return 1; }
		grep -qxF "$help" "$REPO/man/tmemstat.8" || { echo "$key: $help"; return 1; }
	done
}

@test "tmemstat --prometheus is a valid exposition" {
	host
	client a -n 'quo"te\' -p files
	client b -n 'quo"te\' -p files
	tmemstat --prometheus >"$T/prom"
	python3 - "$T/prom" <<-'PY'
		import re, sys
		types, helps, seen = {}, set(), set()
		for line in open(sys.argv[1]):
		    line = line.rstrip('\n')
		    m = re.fullmatch(r'# (HELP|TYPE) ([a-z_:]+) (.+)', line)
		    if m:
		        kind, name, rest = m.groups()
		        if kind == 'TYPE':
		            assert name not in types, line
		            types[name] = rest
		        else:
		            helps.add(name)
		        continue
		    m = re.fullmatch(r'([a-z_:]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*\})? (\d+)', line)
		    assert m, line
		    assert m.group(1) in types and m.group(1) in helps, line
		    assert (types[m.group(1)] == 'counter') == m.group(1).endswith('_total'), line
		    assert m.group(1, 2) not in seen, line
		    seen.add(m.group(1, 2))
		assert ('tmem_pool_pages', '{client="quo\\"te\\\\",client_id="1",pool="files",pool_id="0",type="ephemeral"}') in seen
	PY
}

@test "tmemstat ends cleanly on SIGINT, on a closed pipe, and when the host goes" {
	host
	client a -n mount -p files
	"$B/tmemstat" 60 >"$T/out" 3>&- &
	pid=$!
	retry 10 grep -q files "$T/out"
	kill -INT $pid
	wait $pid
	"$B/tmemstat" 0.1 2>"$T/err" 3>&- | head -n 1
	[ ! -s "$T/err" ]
	"$B/tmemstat" 0.1 >"$T/out2" 2>"$T/err" 3>&- &
	pid=$!
	retry 10 grep -q files "$T/out2"
	stop_host
	status=0
	wait $pid || status=$?
	[ "$status" = 3 ]
	grep -q "gone away" "$T/err"
}

# --- the protocol, badly spoken --------------------------------------------------------------------

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
		'["join","released","list","freeze","thaw","freeable","flush","set","destroy","query-schema","help"]' ]
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
		InvalidParameter|needs weight, cap or compress|{"execute":"set","arguments":{"client":"a"}}
		InvalidParameter|'weight' has to be|{"execute":"set","arguments":{"client":"a","weight":"1"}}
		InvalidParameter|'cap' has to be|{"execute":"set","arguments":{"client":"a","cap":-1}}
		InvalidParameter|'client' has to be|{"execute":"freeze","arguments":{"client":[]}}
		InvalidParameter|needs 'bytes'|{"execute":"flush"}
		InvalidParameter|'force' has to be|{"execute":"destroy","arguments":{"client":"a","force":1}}
		NoSuchClient|no client 'b'|{"execute":"freeze","arguments":{"client":"b"}}
		NoSuchClient|no client '-1'|{"execute":"freeze","arguments":{"client":-1}}
		NotPermitted|is for clients|{"execute":"released","arguments":{"ticket":1,"bytes":1}}
		InvalidParameter|descriptor|{"execute":"join","arguments":{"name":"a","type":"b","pid":1,"protocol":1}}
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
	only_us() { [ "$(find "/proc/$(host_pid)/fd" -lname 'socket:*' | wc -l)" -le 2 ]; }
	retry 30 only_us # the listening socket and the client; it has been dropped
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
	host
	try 1 as_nobody "$D/tmemctl" list
	contains "Permission denied"
	one_line
	# Even if somebody opens the socket up.
	chmod 666 "$TMEM_SOCKET"
	try 1 as_nobody "$D/tmemctl" list
	contains "only root and the user of this tmemd"
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

# --- clients that are stuck, hosts that are killed ---------------------------------------------------

@test "a stopped client does not hold up the others" {
	host
	client a -n stuck -e 100M
	stuck=$CLIENT
	client b -n fine -e 100M
	kill -STOP $stuck
	"$B/tmemctl" flush 100M >"$T/out" 2>"$T/err" 3>&- &
	pid=$!
	try 0 tmemctl list
	try 0 tmemctl flush 10M fine
	contains "released 10.0M"
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
	client c -n c -d
	retry 10 clients_are 3
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

@test "completion asks the program" {
	host
	client a -n mymount
	try 0 tmemctl --complete
	contains freeable
	try 0 tmemctl --complete freeze
	contains mymount
	try 0 tmemctl --complete set mymount
	contains weight=
}
