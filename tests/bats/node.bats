#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# node.bats - a memory node: several exports, each with its limit, weight and life, over TCP with TLS

load helpers
load doc

PLUGIN=$B/nbdkit-tmem-plugin.so

test_setup() {
	export TMEM_TMEMD=$B/tmemd ETC=$T/etc
	SOCK=$T/nbd.sock
	mkdir "$ETC"
	defer 'kill -9 $(tmemctl list --json | jq .host.pid)'
}

# serve NAME=VALUE...: start a server; uri NAME reaches its exports.
serve() {
	rm -f "$T/nbd.pid" "$SOCK"
	nbdkit -f -U "$SOCK" -P "$T/nbd.pid" "$PLUGIN" "$@" 2>>"$T/nbd.err" 3>&- & # in the background it logs elsewhere
	defer 'kill $(cat '"$T"'/nbd.pid)'
	retry 10 test -s "$T/nbd.pid"
}
uri() { echo "nbd+unix:///$1?socket=$SOCK"; }

gone() { ! kill -0 "$1" 2>/dev/null; }
of() { tmemctl list --json | jq -r --arg n "$1" ".clients[] | select(.name == \$n) | .$2"; }
is() { [ "$(of "$1" "$2")" = "$3" ]; }

murder() {
	local pid
	pid=$(cat "$T/nbd.pid")
	kill -9 "$pid"
	retry 10 gone "$pid"
}

# fails_with TEXT NAME=VALUE...: the server refuses to start with one line that says TEXT.
fails_with() {
	local text=$1
	shift
	try 1 timeout 20 nbdkit -f -U - "$PLUGIN" "$@" --run true
	contains "$text"
	one_line
}

# The same, when all parameters are good but the host says no.
ends_with() {
	local text=$1
	shift
	rm -f "$T/other.sock"
	try 1 timeout 20 nbdkit -f -U "$T/other.sock" "$PLUGIN" lock=no "$@"
	contains "$text"
	one_line
}

# fill FILE SEED BYTES: compressible content that follows from the seed.
fill() { seq "$2" 99999999 | head -c "$3" >"$1" || true; }

# holds NAME FILE: the export begins with the file.
holds() { nbdcopy "$(uri "$1")" - 2>/dev/null | cmp -n "$(stat -c %s "$2")" - "$2"; }

names() { nbdinfo --list --json "$(uri '')" | jq -c '[.exports[]."export-name"]'; }

@test "bad exports: one clear line each" {
	fails_with 'export a: size=SIZE is required' export=a
	fails_with 'size=SIZE is required' export=
	fails_with 'export b: size: at most' export=a size=1M export=b size=17T
	fails_with "two exports are called 'a'" export=a size=1M export=a size=1M
	fails_with "two exports are called ''" size=1M export= size=1M
	fails_with 'export a: size is given twice' export=a size=1M limit=2M size=2M
	fails_with 'limit: at least 2M' export=a size=1M limit=1M
	for weight in 0 10001 -1 '' 2x 99999999999999999999; do
		fails_with 'weight: a number from 1 to 10000' export=a size=1M "weight=$weight"
	done
	fails_with "exports 'a' and 'b' have the same pool a" export=a size=1M export=b size=1M pool=a
	fails_with "exports '' and 'b' have the same fallback" size=1M fallback="$T/fb" export=b size=1M fallback="$T/fb"
	[ ! -e "$T/fb" ]
	fails_with 'another server uses it' export=a size=1M fallback="$T/fb" export=b size=1M fallback="$T/./../${T##*/}/fb"
	fails_with 'a name has at most 255 bytes' "export=$(printf 'x%.0s' {1..256})" size=1M
	fails_with 'no control characters' export=$'two\nlines' size=1M
	fails_with 'export ü: pool=NAME is required' export=ü size=1M
	fails_with "export $(printf 'x%.0s' {1..64}): pool=NAME is required" "export=$(printf 'x%.0s' {1..64})" size=1M
	exports=()
	for i in $(seq 129); do exports+=("export=e$i" size=1M); done
	fails_with 'more than 128 exports' "${exports[@]}"
}

@test "a bad file of exports: one line that names file and line" {
	fails_with "exports=$T/none: No such file" exports="$T/none"
	while IFS='|' read -r text content; do
		printf '%b' "$content" >"$T/conf"
		fails_with "$text" exports="$T/conf"
	done <<-EOF
	conf:2: is not 'key = value'|export = a\nsize 1M\n
	conf:1: unknown parameter color|color = blue\n
	conf:3: size=lots: not a size|# a tenant\nexport = a\n  size = lots\n
	conf:1: a file of exports cannot name another one|exports = $T/conf\n
	conf:4: two exports are called 'a'|export = a\nsize = 1M\n\nexport=a\n
	size=SIZE is required|# nothing\n
	EOF
	fails_with 'Is a directory' exports="$T"
}

@test "names are bytes: 255 of them, unicode, blanks, a path, none" {
	long=$(printf 'y%.0s' {1..255})
	cat >"$T/conf" <<-EOF
	export = $long
	size = 5M
	pool = long
	# two words, and what other formats take for a comment
	export = Füße ; x = 1, #2
	size = 6M
	pool = feet
	EOF
	serve size=4M exports="$T/conf" export=../../etc/passwd size=7M
	[ "$(names)" = "[\"\",\"$long\",\"Füße ; x = 1, #2\",\"../../etc/passwd\"]" ]
	[ "$(nbdinfo --size "$(uri '')")" = $((4 << 20)) ]
	[ "$(nbdinfo --size "$(uri "$long")")" = $((5 << 20)) ]
	[ "$(nbdinfo --size "$(uri 'F%C3%BC%C3%9Fe%20%3B%20x%20%3D%201%2C%20%232')")" = $((6 << 20)) ]
	[ "$(nbdinfo --size "$(uri ../../etc/passwd)")" = $((7 << 20)) ]
	retry 10 is ../../etc/passwd weight 100
	for unknown in other "${long}y" "${long:1}" .. F; do
		try 1 nbdinfo "$(uri "$unknown")"
		contains 'No such file'
	done
	grep -q 'a client asked for an export that is not there' "$T/nbd.err"
	not grep -q "${long:1}" "$T/nbd.err" # a stranger's words stay out of the log
}

@test "without an unnamed export, who asks for no name gets nothing" {
	serve export=a size=4M
	try 1 nbdinfo "$(uri '')"
	[ "$(nbdinfo --size "$(uri a)")" = $((4 << 20)) ]
}

@test "the only device, without a name, is for whoever asks for any" {
	serve size=4M
	for name in '' a any%20name; do [ "$(nbdinfo --size "$(uri "$name")")" = $((4 << 20)) ]; done
	[ "$(names)" = '[""]' ]
}

@test "each export is a device of its own, and a full one fails alone" {
	serve export=small size=64M limit=4M export=large size=64M limit=64M export=disk size=64M limit=4M fallback="$T/fb"
	fill "$T/a" 1000000 1M
	fill "$T/b" 5000000 1M
	head -c 16M /dev/urandom >"$T/noise"
	nbdcopy "$T/a" "$(uri small)"
	nbdcopy "$T/b" "$(uri large)"
	holds small "$T/a"
	holds large "$T/b"
	[ "$(nbdinfo --map "$(uri disk)" | awk '{ print $1, $2, $3 }')" = "0 67108864 3" ]

	run nbdcopy "$T/noise" "$(uri small)"
	[ "$status" -ne 0 ]
	contains 'No space left'
	grep -q 'export small: no room' "$T/nbd.err"
	[ "$(of small used_bytes)" -le $((4 << 20)) ]
	nbdcopy "$T/noise" "$(uri large)"
	nbdcopy "$T/noise" "$(uri disk)"
	holds large "$T/noise"
	holds disk "$T/noise"
	not grep -q 'export large: no room' "$T/nbd.err"
}

@test "many connections to many exports, verified" {
	serve export=a size=16M limit=64M export=b size=16M limit=4M fallback="$T/fb"
	for e in a b; do
		fio --name=v --ioengine=nbd --uri="$(uri $e)" --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
			--rw=randrw --bsrange=512-64k --size=4M --offset_increment=4M --numjobs=4 --iodepth=8 --minimal \
			--aux-path="$T" >"$T/$e.log" 2>&1 &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid"; done
	nbdinfo --can multi-conn "$(uri a)"
}

@test "recompression: off by default, as the machine may swap to it, on where asked for" {
	tmemd -l 48M -r 1M 3>&-
	serve export=default size=16M export=dense size=16M recompress=on
	retry 10 is dense recompress true
	is default recompress false
	tmemctl set default recompress=on
	is default recompress true
}

@test "weights: in the list, in the shares, and again after the host was killed" {
	tmemd -l 48M -r 1M 3>&-
	serve export=light size=256M export=heavy size=256M weight=300 limit=128M
	retry 10 is heavy weight 300
	retry 10 is light weight 100
	head -c 64M /dev/urandom >"$T/noise"
	for e in light heavy; do
		run nbdcopy "$T/noise" "$(uri $e)" # more than there is
		[ "$status" -ne 0 ]
	done
	shares() { [ "$(of heavy granted_bytes)" -gt $(($(of light granted_bytes) * 2)) ]; }
	retry 10 shares
	kill -9 "$(tmemctl list --json | jq .host.pid)"
	retry 10 is heavy weight 300
	retry 10 is light weight 100
	tmemctl set heavy weight=50 # the operator has the last word, until the host goes
	retry 10 is heavy weight 50
}

@test "kill -9: every export is there again, and one that does not fit costs the others nothing" {
	cat >"$T/conf" <<-EOF
	export = one
	size = 16M
	export = two
	size = 16M
	limit = 4M
	fallback = $T/fb
	export = three
	size = 8M
	EOF
	all() {
		for e in one two three; do
			if [ "$(of $e "$1")" != "$2" ]; then return 1; fi
		done
	}
	serve exports="$T/conf"
	fill "$T/one" 1000000 8M
	head -c 12M /dev/urandom >"$T/two"
	fill "$T/three" 7000000 4M
	for e in one two three; do nbdcopy "$T/$e" "$(uri $e)"; done
	retry 10 all kept true
	murder
	retry 10 all alive false

	# Twice the wrong size of the last one: the first two were open already.
	sed 's/8M/9M/' "$T/conf" >"$T/wrong"
	for _ in 1 2; do
		ends_with 'pool=three: the last server of this name was killed and left pages, but it has another size' \
			exports="$T/wrong"
		retry 10 all alive false
	done
	serve exports="$T/conf"
	for e in one two three; do holds $e "$T/$e"; done

	# Killed at any moment of its start, again and again.
	for i in $(seq 12); do
		murder
		rm -f "$SOCK"
		nbdkit -f -U "$SOCK" "$PLUGIN" exports="$T/conf" 2>>"$T/nbd.err" 3>&- &
		starting=$!
		for ((n = 0; n < i; n++)); do tmemctl list >/dev/null; done # a little longer each time
		kill -9 $starting
		wait $starting || true
		serve exports="$T/conf"
	done
	for e in one two three; do holds $e "$T/$e"; done
}

@test "a name belongs to one server at a time" {
	serve export=a size=4M
	fill "$T/a" 1000000 2M
	nbdcopy "$T/a" "$(uri a)"
	retry 10 is a kept true
	for other in 'export=a' 'export=b size=4M export=c pool=a' 'pool=a'; do
		# shellcheck disable=SC2086
		ends_with 'pool=a: another server of this name is running' $other size=4M
	done
	holds a "$T/a"

	# Killed and started twice at once: one gets what was left, the other goes.
	murder
	retry 10 is a alive false
	for i in 1 2; do
		nbdkit -f -U "$T/$i.sock" -P "$T/$i.pid" "$PLUGIN" lock=no export=a size=4M 2>"$T/$i.err" 3>&- &
		defer "kill -9 $!"
	done
	someone_lost() { cat "$T"/[12].err | grep -q .; }
	retry 10 someone_lost
	if [ -s "$T/1.err" ]; then winner=2 loser=1; else winner=1 loser=2; fi
	[ "$(cat "$T/$loser.err")" = 'nbdkit: error: pool=a: another server of this name is running' ]
	SOCK=$T/$winner.sock
	retry 10 holds a "$T/a"
}

# heir FILE: in the background, take over what pool "a" left, as a server does that is just starting.
# Each step is written to FILE; removing that lets it go on, at last to its death.
heir() {
	{
		exec python3 - "$TMEM_SOCKET" "$(cat "$T/nbd.pid")" "$1" 3>&- <<-'EOF'
		import fcntl, glob, json, os, socket, sys, time
		host, pid, out = sys.argv[1:]
		ledger = next(os.open(f, os.O_RDWR) for f in glob.glob(f"/proc/{pid}/fd/*")
		              if os.readlink(f).startswith("/memfd:tmem-ledger"))
		def say(text):
		    open(out, "w").write(text)
		    while os.path.exists(out):
		        time.sleep(0.02)
		def ask(what, fds=[]):
		    socket.send_fds(s, [json.dumps(what).encode() + b"\n"], fds)
		    data, got, _, _ = socket.recv_fds(s, 65536, 1)
		    assert b'"return"' in data, data
		    return got
		say("ready")
		s = socket.socket(socket.AF_UNIX)
		s.connect(host)
		s.recv(65536)
		store = ask({"execute": "reclaim", "arguments": {"name": "a", "type": "nbd", "what": "store"}})[0]
		fcntl.lockf(store, fcntl.LOCK_EX | fcntl.LOCK_NB)
		say("locked")
		ask({"execute": "join", "arguments": {"name": "a", "type": "nbd", "pid": 1, "protocol": 1,
		                                      "successor": True}}, [ledger])
		say("joined")
		EOF
	} &
	defer "kill $!"
}
heir_says() { [ "$(cat "$T/heir")" = "$1" ]; }

@test "a server that is starting has the memory to itself, and costs nothing when it dies before it serves" {
	serve export=a size=4M
	fill "$T/a" 1000000 2M
	nbdcopy "$T/a" "$(uri a)"
	retry 10 is a kept true
	heir "$T/heir"
	retry 10 heir_says ready
	murder
	retry 10 is a alive false
	rm "$T/heir"
	retry 10 heir_says locked
	ends_with 'pool=a: another server of this name is running' export=a size=4M
	rm "$T/heir"
	retry 10 heir_says joined
	is a alive true
	is a kept true
	rm "$T/heir"
	retry 10 is a alive false
	is a kept true
	serve export=a size=4M
	holds a "$T/a"
}

refused() { tmemctl list --json | jq .host.clients_refused; }
refused_since() { [ "$(refused)" -gt "$1" ]; }

@test "two servers of a name that start without a host: it keeps one of them, and that one whole" {
	for i in 1 2; do
		TMEM_TMEMD=/bin/false nbdkit -U "$T/$i.sock" -P "$T/$i.pid" "$PLUGIN" export=a size=4M
		defer 'kill -9 $(cat '"$T/$i.pid"')'
		fill "$T/$i" $((i * 1000000)) 2M
		nbdcopy "$T/$i" "nbd+unix:///a?socket=$T/$i.sock"
	done
	tmemd 3>&-
	retry 10 is a kept true
	winner=1
	[ "$(of a pid)" = "$(cat "$T/1.pid")" ] || winner=2
	kill -9 "$(of a pid)"
	retry 10 is a alive false
	before=$(refused)
	retry 20 refused_since "$before" # the other one asks again, which must not help it
	is a alive false
	kill -9 "$(cat "$T/$((3 - winner)).pid")"
	serve export=a size=4M
	holds a "$T/$winner"
}

@test "TLS: a tenant's key opens the tenant's server, and nothing else does" {
	ip netns add "tm$$"
	defer "ip netns del tm$$"
	inside() { ip netns exec "tm$$" "$@"; }
	inside ip link set lo up
	bash -euc "$(block psk)" >/dev/null
	psktool -u web -p "$ETC/web.psk" >/dev/null
	block web.conf >"$ETC/web.conf"
	# As the unit starts them.
	start=$(sed -n 's/^ExecStart=//p' "$REPO/etc/tmem-node@.service")
	for tenant in lab:10810 web:10809; do
		name=${tenant%:*}
		OPTIONS="--port=${tenant#*:} --tls=require --tls-psk=$ETC/$name.psk"
		cmd=${start//%i/$name}
		cmd=${cmd//\/etc\/tmem/$ETC}
		cmd=${cmd/ tmem / $PLUGIN }
		cmd=${cmd/\$OPTIONS/$OPTIONS}
		[ "$name" = web ] || printf 'export = lab\nsize = 1G\n' >"$ETC/lab.conf"
		# shellcheck disable=SC2086
		inside $cmd 2>"$T/$name.err" 3>&- &
		defer "kill $!"
	done
	web="nbds://web@localhost:10809" lab="nbds://lab@localhost:10810"
	retry 10 inside nbdinfo --size "$web/web1?tls-psk-file=$ETC/web.psk"
	retry 10 inside nbdinfo --size "$lab/lab?tls-psk-file=$ETC/lab.psk"
	[ "$(inside nbdinfo --size "$web/web2?tls-psk-file=$ETC/web.psk")" = $((16 << 30)) ]
	retry 10 is web1 weight 200
	retry 10 is web2 limit_bytes $((8 << 30))
	for bad in "nbd://localhost:10809/web1" "$web/web1?tls-psk-file=$ETC/lab.psk" \
		"nbds://lab@localhost:10809/web1?tls-psk-file=$ETC/lab.psk" "nbds://web@localhost:10810/lab?tls-psk-file=$ETC/web.psk" \
		"nbds://web@localhost:10810/web1?tls-psk-file=$ETC/web.psk" "nbds://localhost:10809/web1"; do
		try 1 inside nbdinfo --size "$bad"
	done
	fill "$T/a" 1000000 4M
	inside nbdcopy "$T/a" "$web/web1?tls-psk-file=$ETC/web.psk"
	inside nbdcopy "$web/web1?tls-psk-file=$ETC/web.psk" - 2>/dev/null | cmp -n $((4 << 20)) - "$T/a"
}

@test "the manual shows the commands that the document has and this suite runs" {
	for name in serve-lab uri serve-web web.conf; do
		while read -r line; do
			grep -qF -- "$line" "$REPO/man/nbdkit-tmem-plugin.1" || { echo "not in the manual: $line"; return 1; }
		done < <(awk -v name=$name '/^```/ { on = !on && $2 == name; next } on' "$REPO/docs/memory-node.md")
	done
}

@test "docs/memory-node.md between two machines: delay, loss, a wire cut for 20 s, a node that dies under a mirror" {
	requires linux.uml mdadm certtool
	UML_MEM=640M try 0 "$REPO/tests/vm/uml" "$REPO/tests/vm/memory-node"
	contains 'the node died, the mirror went on, every page right'
	contains 'every byte of lab is right'
}
