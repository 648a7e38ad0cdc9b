#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tmemctl: every command

load helpers
load host

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

@test "tmem-stats(7) names no statistic that is not there" {
	host
	client a -n a -p pool
	tmemctl list --json >"$T/json"
	count=0
	while IFS=. read -r kind key; do
		case $kind in
		host) filter=.host ;;
		client) filter=.clients[0] ;;
		pool) filter=.clients[0].pools[0] ;;
		esac
		jq -e --arg k "$key" "$filter | has(\$k)" "$T/json" || { echo "$kind.$key"; return 1; }
		count=$((count + 1))
	done < <(grep -oE '\\fB(host|client|pool)\.[a-z_]+\\fR' "$REPO/man/tmem-stats.7" | sed -E 's/^...//; s/...$//' | sort -u)
	[ "$count" -gt 30 ]
}

@test "tmem-stats(7) has an entry for each statistic that Xen's tmem exported" {
	sed -n 's/^\.B //p' "$REPO/man/tmem-stats.7" >"$T/entries"
	while read -r statistic; do
		grep -qiF "$statistic" "$T/entries" || { echo "no entry: $statistic"; return 1; }
	done <<-EOF
		operations, errors
		failed copies
		allocations failed, pages not allocated
		pages on the free list
		low on memory
		evicted, attempts
		relinquished, attempts, most evictions for one
		pool flushes
		pages, and the most there were
		objects, nodes, descriptors, frames
		good ephemeral puts
		deduplicated puts, bytes of trailing zeros
		compressed bytes
		id, weight, cap, compress, frozen
		cycles
		ephemeral hits, persistent puts and gets
		ephemeral pages
		compressed pages, bytes, poor ones
		no memory
		id, type, uuid
		pages, objects, nodes
		puts: good, all, duplicates flushed, replaced, no memory
		gets: good, all
		flushes of pages and objects: good, all
		sharers
		samples, total, least and most for each operation
	EOF
	# And under each there is something to read.
	awk '/^\.TP/ { if (entry && !text) bad = 1; entry = text = 0 } /^\.B / { entry = 1; next } /^[^.]/ { text = 1 }
		END { exit bad }' "$REPO/man/tmem-stats.7"
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

@test "set: weight, cap, compress, recompress" {
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
	try 0 tmemctl set a recompress=on
	is a recompress true
	is a compress lz4
	try 0 tmemctl set a recompress=off
	is a recompress false
	try 2 tmemctl set a recompress=yes
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

watching() { [ "$(tmemctl list --json | jq .host.watchers)" = "$1" ]; }

# seen FILTER: tmemctl watch --json printed an event for which this is true.
seen() { jq -es "any(.[]; $1)" "$T/events"; }

@test "watch: what happens, one line each" {
	host -l 100M -r 0
	"$B/tmemctl" watch --json >"$T/events" 3>&- &
	json=$!
	"$B/tmemctl" watch >"$T/lines" 3>&- &
	human=$!
	defer "kill $json $human"
	retry 20 watching 2
	client a -n mount -t tmemfs -e 60M
	tmemctl freeze mount
	tmemctl thaw
	run talk '{"execute":"join","arguments":{"name":"a","type":"b","pid":1,"protocol":99}}
'
	tmemctl destroy mount
	retry 20 seen '.event == "left" and .data.client == "mount" and .data.id == 1 and .data.kept == false'
	seen '.event == "joined" and .data.client == "mount" and .data.type == "tmemfs" and .data.pid > 0'
	seen '.event == "frozen" and .data.client == "mount"'
	seen '.event == "thawed" and .data.client == null'
	seen '.event == "refused" and .data.class == "WrongVersion" and .data.uid == 0'
	seen '.event == "destroyed" and .data.client == "mount"'
	seen '.data.time_ms > 1600000000000'
	[ "$(wc -l <"$T/events")" = "$(jq -s length "$T/events")" ]
	retry 20 grep -qE '^[0-9:]{8}\.[0-9]{3} left +mount \(id 1, tmemfs, pid [0-9]+\)$' "$T/lines"
	grep -qE ' frozen +mount \(id 1' "$T/lines"
	grep -qE ' thawed +every client$' "$T/lines"
	grep -qE ' refused +pid [0-9]+, uid 0: this host speaks protocol' "$T/lines"
	kill $json
	retry 20 watching 1
	kill "$(host_pid)"
	not wait $human
	retry 10 test ! -e "$TMEM_SOCKET"
}

@test "watch: who does not read is dropped, the host and the others go on" {
	host
	python3 - "$TMEM_SOCKET" "$T/ready" <<-'PY' 3>&- &
		import socket, sys, time
		s = socket.socket(socket.AF_UNIX)
		s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
		s.connect(sys.argv[1])
		s.sendall(b'{"execute":"watch"}\n')
		open(sys.argv[2], 'w')
		time.sleep(1000)
	PY
	defer "kill $!"
	retry 20 watching 1
	# 64 KiB of events wait in the host, some hundred more in the socket.
	python3 - "$TMEM_SOCKET" <<-'PY'
		import socket, sys
		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		f = s.makefile()
		f.readline()
		for i in range(6000):
		    s.sendall(b'{"execute":"thaw"}\n')
		    f.readline()
	PY
	retry 20 watching 0
	[ "$(tmemctl list --json | jq .host.watchers_dropped)" = 1 ]
}

@test "help and completion come from the table of the protocol" {
	host
	for c in list freeze thaw freeable flush set destroy watch; do
		help=$(talk '{"execute":"query-schema"}
' | jq -r --arg c $c '.return.commands? // empty | .[] | select(.name == $c) | .help')
		[ -n "$help" ]
		tmemctl --help | grep -qF "  $help"
	done
	try 0 tmemctl --complete set a
	[ "$output" = "weight=
cap=
cap=none
compress=lz4
compress=none
recompress=on
recompress=off" ]
	try 0 tmemctl help set
	contains "weight     its part of the memory that is short, 1 to 10000"
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

@test "save and restore: a client that cannot, and one that does not listen" {
	host
	client a -n a
	try 1 tmemctl save a "$T/file"
	contains "client 'a': Operation not supported"
	one_line
	try 1 tmemctl restore a "$BATS_TEST_FILENAME"
	contains "client 'a': Operation not supported"
	[ -z "$(ls "$T"/file*)" ]
	kill -STOP "$CLIENT"
	retry 10 grep -q '^State:.T' "/proc/$CLIENT/status"
	try 124 timeout 1 tmemctl save a "$T/file" # waits, and can be interrupted
	try 1 tmemctl save a "$T/file"
	contains "is being saved or restored"
	[ -z "$(ls "$T"/file*)" ]
	kill -CONT "$CLIENT"
	retry 10 eval '! tmemctl save a "$T/file" 2>&1 | grep "is being saved"'
}
