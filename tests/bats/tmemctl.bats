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
