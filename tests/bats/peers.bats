#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# peers.bats - other people's NBD programs, against pages in memory and on the fallback at once

load helpers

PLUGIN=$B/nbdkit-tmem-plugin.so

# Random data does not compress and goes to the fallback; so does what the 4M of memory do not take.
test_setup() {
	serve a size=64M limit=4M fallback="$T/a.fallback"
}

# serve NAME PARAMETER...: a server whose URI is $(uri NAME).
serve() {
	local name=$1
	shift
	nbdkit -U "$T/$name.sock" -P "$T/$name.pid" "$PLUGIN" tmem-socket=none "$@" 3>&-
	retry 10 test -s "$T/$name.pid"
	defer "kill $(cat "$T/$name.pid")"
}

uri() { echo "nbd+unix:///?socket=$T/$1.sock"; }

# io COMMAND...: carried out by qemu-io, which verifies what it reads with -P.
io() {
	local args=() c
	for c in "$@"; do args+=(-c "$c"); done
	try 0 qemu-io -f raw "${args[@]}" "$(uri a)"
	[[ $output != *failed* ]] || { echo "$output"; return 1; }
}

# noise FILE BYTES: reproducible, so that a failure can be seen again.
noise() { openssl enc -aes-128-ctr -nosalt -pass "pass:$1" </dev/zero 2>/dev/null | head -c "$2" >"$1"; }

@test "qemu-io: writes, overwrites, zeroes and discards of any alignment read back right" {
	cd "$T"
	noise noise $((16 << 20))
	io "write -s noise 0 16M" "write -P 1 16M 16M" "write -P 2 1M 128k" "write -P 3 1000000 77777" \
		"read -P 2 1080000 28k" "read -P 3 1000000 77777" "read -P 1 16M 16M"
	io "write -z 2M 1M" "write -zu 3M 1M" "write -z 5000001 4097" "discard 6M 1M" "discard 18M 4M" \
		"read -P 0 2M 2M" "read -P 0 5000001 4097" "read -P 0 6M 1M" "read -P 0 18M 4M" "read -P 1 16M 2M"
	io "write -f -P 5 0 4k" "flush" "write -P 6 67108863 1" "read -P 6 67108863 1" "read -P 5 0 4k"
	io "aio_write -P 7 32M 1M" "aio_write -P 8 33M 1M" "aio_write -P 9 34M 1M" "aio_flush" \
		"read -P 7 32M 1M" "read -P 8 33M 1M" "read -P 9 34M 1M"
	# What none of this wrote is still the noise.
	nbdcopy "$(uri a)" back
	cmp -i $((8 << 20)) -n $((8 << 20)) noise back
}

@test "qemu-io: a pattern that is not there is noticed" {
	io "write -P 1 0 64k"
	try 1 qemu-io -f raw -c "read -P 2 0 64k" "$(uri a)"
	contains 'Pattern verification failed'
}

@test "qemu-img: convert to the device and back, compare, map" {
	cd "$T"
	noise image $((8 << 20))
	truncate -s 64M image
	try 0 qemu-img convert -n -f raw -O raw image "$(uri a)"
	try 0 qemu-img compare -f raw -F raw image "$(uri a)"
	contains 'identical'
	try 0 qemu-img convert -f raw -O qcow2 "$(uri a)" image.qcow2
	try 0 qemu-img compare image "$(uri a)"
	try 0 qemu-img map -f raw --output=json "$(uri a)"
	[ "$(jq -c '[.[] | [.start, .length, .data]]' <<<"$output")" = "[[0,8388608,true],[8388608,58720256,false]]" ]
	try 0 qemu-img bench -f raw -c 2000 -d 16 -s 4k -w --pattern=3 "$(uri a)"
	io "read -P 3 0 8192000"
}

@test "nbdcopy: between two devices, sparse, with many connections and requests" {
	cd "$T"
	noise image $((24 << 20))
	seq 3000000 | head -c 8M >>image
	truncate -s 64M image
	serve b size=64M limit=16M fallback="$T/b.fallback"
	try 0 nbdcopy --connections=4 --requests=16 image "$(uri a)"
	try 0 nbdcopy --connections=4 --destination-is-zero "$(uri a)" "$(uri b)"
	try 0 nbdcopy --synchronous "$(uri b)" back
	cmp image back
	[ "$(nbdinfo --map "$(uri a)" | awk '{ print $1, $2, $3 }')" = "$(nbdinfo --map "$(uri b)" | awk '{ print $1, $2, $3 }')" ]
	try 0 nbdcopy -- [ nbdkit null size=64M ] "$(uri b)"
	[ "$(nbdinfo --map --totals "$(uri b)" | awk '{ print $1, $3 }')" = "67108864 3" ]
}

@test "nbdinfo: what is there" {
	try 0 nbdinfo --no-content --json "$(uri a)" # for which it runs file(1)
	[ "$(jq -c '.exports[0] | [.["export-size", "block_size_minimum", "block_size_preferred", "is_read_only"]]' \
		<<<"$output")" = '[67108864,1,4096,false]' ]
	[ "$(jq -c '.exports[0] | [.can_multi_conn, .can_trim, .can_zero, .can_fast_zero, .can_fua, .can_flush,
		.can_cache, .can_df] | all' <<<"$output")" = true ]
}
