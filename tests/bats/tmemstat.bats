#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tmemstat: columns, JSON, Prometheus

load helpers
load host

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
