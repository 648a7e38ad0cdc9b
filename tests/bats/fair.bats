#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# One memory, many clients: what each gets when all want more (tests/helpers/putter.c puts without end)

load helpers
load host

# putter NAME OPTION...: one in the background, joined when this returns. Its pid is in $CLIENT.
putter() {
	local name=$1 before
	shift
	before=$(clients)
	"$B/tests/putter" -n "$name" "$@" >"$T/$name.json" 3>&- &
	CLIENT=$!
	defer "kill -CONT $CLIENT; kill $CLIENT"
	retry 30 clients_are $((before + 1))
}

# ended PID NAME KEY: end a putter; a number of what it has to say. (In a subshell there is no waiting for its end.)
ended() {
	kill "$1"
	retry 30 test -s "$T/$2.json"
	jq ".$3" "$T/$2.json"
}

# near NAME PERCENT: the client uses so much of what all use, give or take 5 points; all use 90% of the limit.
near() {
	tmemctl list --json | jq -e --arg n "$1" --argjson p "$2" '
		[.clients[].used_bytes] as $all | ($all | add) as $sum
		| (.clients[] | select(.name == $n) | .used_bytes) / $sum * 100 - $p
		| (. < 5 and . > -5 and ($sum > 0)) and true' &&
		[ "$(tmemctl list --json | jq '.host.used_bytes > .host.total_bytes * 0.7')" = true ]
}

@test "over-putting at weights 1:3 settles at 25:75, and at 50:50 when the weights say so" {
	host -l 128M -r 0
	putter one -w 100 # alone it gets everything
	retry 60 near one 100
	putter three -w 300
	retry 60 near one 25
	near three 75
	tmemctl set one weight=300
	retry 60 near one 50
}

@test "who is over its share loses pages first" {
	host -l 128M -r 0
	putter small -s 16M
	putter big
	retry 60 near big 73
	# The small one is below its half and lost nothing.
	[ "$(tmemctl list --json | jq '[.clients[] | select(.name == "small") | .pools[].evicted] | add')" = 0 ]
	[ "$(tmemctl list --json | jq '[.clients[] | select(.name == "big") | .pools[].evicted] | add > 0')" = true ]
}

@test "a cap is never exceeded by a byte" {
	host -l 256M -r 0
	putter capped
	capped=$CLIENT
	putter other
	# Down and down while it puts: from the moment that its ledger shows a cap, it holds.
	for ((i = 40; i >= 0; i--)); do
		tmemctl set capped cap=$((20000000 + i * 1000000))
	done
	is capped cap_bytes 20000000
	below() { [ "$(of capped used_bytes)" -le "$1" ]; }
	retry 60 below 20000000
	for ((i = 0; i < 50; i++)); do
		below 20000000
	done
	tmemctl set other weight=1 # more room, not for the capped one
	for ((i = 0; i < 50; i++)); do
		below 20000000
	done
	# Not even when its host dies and another one comes.
	kill -9 "$(host_pid)"
	retry 30 host -l 256M -r 0
	retry 60 clients_are 2
	is capped cap_bytes 20000000
	is other weight 1
	below 20000000
	[ "$(ended "$capped" capped over_cap)" = 0 ]
}

@test "set cap returns when no thread goes by an older grant" {
	host -l 1G -r 0
	client c -n a -l 64M -e 64M -c # one that is kept between reading its grant and taking bytes
	granted_is() { is a granted_bytes "$1"; }
	retry 10 granted_is $((64 << 20))
	try 1 tmemctl set a cap=32M
	contains "the client is stopped; its cap holds from when it goes on"
	is a cap_bytes $((32 << 20))
	is a granted_bytes $((32 << 20))
	# None needs no waiting. Another one comes when it goes on.
	tmemctl set a cap=none
	retry 10 granted_is $((64 << 20))
	tmemctl set a cap=16M 3>&- &
	setting=$!
	retry 10 granted_is $((16 << 20))
	kill -USR1 "$CLIENT"
	wait "$setting"
	tmemctl set a cap=8M weight=50
	is a weight 50
	# Nobody waits for one that is gone.
	client d -n b -e 64M -c
	tmemctl set b cap=1M 3>&- &
	setting=$!
	capped() { is b cap_bytes $((1 << 20)); }
	retry 10 capped
	kill -9 "$CLIENT"
	wait "$setting"
}

@test "persistent demand goes before ephemeral pages" {
	host -l 192M -r 0
	putter cache
	retry 60 near cache 100
	# It grows at the cost of the cache, whatever the weights.
	tmemctl set cache weight=10000
	putter swap -k -s 64M
	has() { [ "$(of "$1" used_bytes)" -ge "$2" ]; }
	retry 60 has swap $((64 << 20))
	# An idle one keeps a little room ahead, the cache has the rest.
	retry 60 has cache $((56 << 20))
	putter swap2 -k -s 16M
	retry 60 has swap2 $((16 << 20))
	has swap $((64 << 20))
}

@test "under a steady load no put is refused for want of a lease" {
	host -l 1G -r 0
	putter steady -k -r 20M -s 100M
	steady=$CLIENT
	putter cache # takes all the rest, all the time
	full() { [ "$(of steady used_bytes)" -ge $((100 << 20)) ]; }
	retry 120 full
	[ "$(ended "$steady" steady refused)" = 0 ]
}

@test "a stopped client that holds too much takes nothing from the shares of the others" {
	host -l 128M -r 0
	putter stuck
	stuck=$CLIENT
	retry 60 near stuck 100
	kill -STOP "$stuck"
	putter fine
	half() { [ "$(of fine used_bytes)" -ge $((56 << 20)) ]; }
	retry 60 half
}

@test "freeze, freeable, flush, allocate, thaw under load" {
	host -l 192M -r 0
	putter a
	a=$CLIENT
	putter b -k -s 32M
	retry 60 near a 73
	tmemctl freeze
	freeable=$(tmemctl freeable --json | jq .freeable_bytes)
	try 0 tmemctl flush 32M
	released=$(numfmt --from=iec "${output#released }")
	[ "$released" -ge $((31 << 20)) ] # it is printed with three digits
	# No page comes back while it is frozen, but the store makes some segments ready again.
	head -c 32M /dev/zero | tail -c 1 >"$T/allocated"
	[ "$(tmemctl freeable --json | jq .freeable_bytes)" -le $((freeable - (20 << 20))) ]
	tmemctl thaw
	back() { [ "$(tmemctl freeable --json | jq .freeable_bytes)" -ge $((freeable - (8 << 20))) ]; }
	retry 60 back
	kill -0 "$a"
}

# looper NAME OPTION...: one in the background, joined when this returns (tests/helpers/looper.c).
looper() {
	local before
	before=$(clients)
	"$B/tests/looper" -n "$@" 3>&- &
	defer "kill -CONT $!; kill $!"
	retry 30 clients_are $((before + 1))
}

# hits NAME: of its gets so far; gets NAME: these.
hits() { of "$1" 'pools[0].hits'; }
gets() { of "$1" 'pools[0].gets'; }

# hits_percent NAME PERCENT: so many of its next 20,000 gets, or more, are hits.
hits_percent() {
	local h g
	h=$(hits "$1") g=$(gets "$1")
	retry 30 eval "[ \$(gets '$1') -ge $((g + 20000)) ]"
	[ $((($(hits "$1") - h) * 100)) -ge $((($(gets "$1") - g) * $2)) ]
}

@test "policy=benefit: memory goes where it brings hits, and back by weight" {
	host -l 160M -r 0
	# The one reads 100M over and over, which is more than its half of what there is; the other reads each page once.
	looper loop -s 100M -r 60M
	looper scan -r 60M
	retry 60 near scan 50
	retry 60 near loop 50
	try 0 tmemctl policy
	[ "$output" = "policy: weight" ]
	not hits_percent loop 90

	tmemctl set HOST policy=benefit
	retry 120 near loop 67
	retry 60 hits_percent loop 95
	try 0 tmemctl policy
	[[ $output == *"policy: benefit"*loop*known*scan*known* ]]
	[[ $(tmemctl list) == *", by benefit"* ]]
	tmemctl policy --json | jq -e '.policy == "benefit" and
		(.clients[] | select(.name == "loop") | .aim_bytes > 100e6 and .aim_hits_percent > 90 and .known)
		and (.clients[] | select(.name == "scan") | .floor_bytes > 15e6 and .aim_bytes >= .floor_bytes)'
	# A cap holds whatever the benefit.
	tmemctl set loop cap=50M
	capped() { [ "$(of loop used_bytes)" -le $((50 << 20)) ] && [ "$(of loop granted_bytes)" -le $((50 << 20)) ]; }
	retry 60 capped
	tmemctl set loop cap=none
	retry 120 near loop 67

	tmemctl set HOST policy=weight
	retry 60 near scan 50
	retry 60 near loop 50
}

@test "policy=benefit: who is new, and who gains nothing, keeps its part by weight" {
	host -l 128M -r 0 --policy benefit
	looper loop -s 120M -r 60M # all there is would not be too much for it
	putter silent              # it puts and never gets; its curve stays unknown: it has no sampler
	retry 60 near silent 50
	retry 60 near loop 50
	putter heavy -w 200
	retry 60 near heavy 50
	retry 60 near silent 25
	retry 60 near loop 25
}

@test "the policy: the configuration's until somebody says another, under the next host too" {
	policy_is() { [ "$(tmemctl list --json | jq -r .host.policy)" = "$1" ]; }
	printf 'policy = benefit\n' >"$T/tmemd.conf"
	host -l 128M -r 0 -c "$T/tmemd.conf"
	policy_is benefit
	looper loop -s 20M
	tmemctl set HOST policy=weight
	policy_is weight
	# What was set live stays, whether the host is killed or stopped.
	kill -9 "$(host_pid)"
	retry 30 host -l 128M -r 0 -c "$T/tmemd.conf"
	policy_is weight
	stop_host
	retry 30 host -l 128M -r 0 -c "$T/tmemd.conf"
	policy_is weight
	# It is the last word that counts: the configuration says something else now, and then again.
	stop_host
	printf 'policy = weight\n' >"$T/tmemd.conf"
	retry 30 host -l 128M -r 0 -c "$T/tmemd.conf"
	policy_is weight
	tmemctl set HOST policy=benefit
	stop_host
	retry 30 host -l 128M -r 0 -c "$T/tmemd.conf"
	policy_is benefit
	retry 60 clients_are 1
	known() { tmemctl policy --json | jq -e '.clients[0].known'; }
	retry 60 known
	# Back to what is configured: nothing is left to remember.
	tmemctl set HOST policy=weight
	[ ! -e "$TMEM_SOCKET.orders" ]
	stop_host
	printf 'policy = benefit\n' >"$T/tmemd.conf"
	retry 30 host -l 128M -r 0 -c "$T/tmemd.conf"
	policy_is benefit
	stop_host
	# The command line wins.
	retry 30 host -l 128M -r 0 -c "$T/tmemd.conf" --policy weight
	policy_is weight
	stop_host
	# What cannot be read, or what others could have written, is not followed.
	echo 'policy greed instead of benefit' >"$TMEM_SOCKET.orders"
	retry 30 host -l 128M -r 0 -c "$T/tmemd.conf"
	policy_is benefit
	stop_host
	echo 'policy weight instead of benefit' >"$TMEM_SOCKET.orders"
	chmod 0666 "$TMEM_SOCKET.orders"
	retry 30 host -l 128M -r 0 -c "$T/tmemd.conf"
	policy_is benefit
	stop_host
	printf 'policy = greed\n' >"$T/tmemd.conf"
	try 1 "$B/tmemd" -c "$T/tmemd.conf"
	[[ $output == *"tmemd.conf:1: policy: 'greed' is neither weight nor benefit"* ]]
	try 2 "$B/tmemd" --policy greed
}

@test "set HOST policy: what is refused" {
	host
	client c -n a
	try 1 tmemctl set HOST policy=greed
	[[ $output == *"policy has to be 'weight' or 'benefit'"* ]]
	try 2 tmemctl set a policy=benefit
	[[ $output == *"the policy is the host's: set HOST policy=benefit"* ]]
	try 2 tmemctl set HOST policy=benefit weight=3
	try 4 tmemctl set HOST weight=3
	talk '{"execute":"set","arguments":{"client":"a","policy":"benefit"}}'$'\n' >"$T/said"
	grep -q 'InvalidParameter.*takes it alone' "$T/said"
	talk '{"execute":"set","arguments":{"policy":"benefit","weight":5}}'$'\n' >"$T/said"
	grep -q 'InvalidParameter.*takes it alone' "$T/said"
	[ "$(tmemctl list --json | jq -r .host.policy)" = weight ]
	is a weight 100
	try 0 tmemctl --complete set
	[[ $output == *HOST* ]]
	try 0 tmemctl --complete set HOST
	[ "$output" = $'policy=weight\npolicy=benefit' ]
	try 0 tmemctl --complete set a
	[[ $output != *policy* ]]
}
