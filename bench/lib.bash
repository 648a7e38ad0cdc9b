# SPDX-License-Identifier: GPL-2.0-or-later
#
# lib.bash - what the benchmarks share: samples, medians, ratios, goals
#
# A benchmark calls `sample WHAT WHO VALUE` in interleaved rounds, then `table` prints, for each WHAT in the order
# first seen, the median of each WHO and its ratio to the first WHO of that WHAT; `json` is the same for programs,
# and `goal` holds one ratio against what we are after.

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
B=$REPO/${B:-build}
SAMPLES=$(mktemp)
CLEANUP=("rm -f $SAMPLES")
trap 'for ((i = ${#CLEANUP[@]} - 1; i >= 0; i--)); do eval "${CLEANUP[i]}" >/dev/null 2>&1 || true; done' EXIT
trap 'exit 130' INT TERM

# undo COMMAND: at exit, last registered first.
undo() { CLEANUP+=("$*"); }

sample() {
	[ -n "$3" ] || { echo "no figure for $2: $1" >&2; return 1; }
	printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$SAMPLES"
}

# WHAT, WHO, median, ratio to the first WHO of the same WHAT; separated by tabs.
medians() {
	awk -F '\t' '
		{
			k = $1 FS $2
			if (!(k in n)) { order[++keys] = k; if (!($1 in base)) { base[$1] = k; whats[++count] = $1 } }
			v[k, ++n[k]] = $3
		}
		function median(k,    i, j, t, m) {
			m = n[k]
			for (i = 1; i <= m; i++) a[i] = v[k, i] + 0
			for (i = 2; i <= m; i++) for (j = i; j > 1 && a[j - 1] > a[j]; j--) { t = a[j]; a[j] = a[j - 1]; a[j - 1] = t }
			return m % 2 ? a[(m + 1) / 2] : (a[m / 2] + a[m / 2 + 1]) / 2
		}
		END {
			for (w = 1; w <= count; w++) for (i = 1; i <= keys; i++) {
				k = order[i]; split(k, part, FS)
				if (part[1] != whats[w]) continue
				m = median(k); b = median(base[whats[w]])
				printf "%s\t%s\t%.6g\t%.3f\n", part[1], part[2], m, b ? m / b : 0
			}
		}' "$SAMPLES"
}

table() { medians | awk -F '\t' '{ printf "%-34s %-12s %14s   x %.2f\n", $1, $2, $3, $4 }'; }

# json FILE: the medians as one object, WHAT -> WHO -> value.
json() {
	medians | jq -Rn --arg date "$(date -u +%F)" \
		'reduce (inputs / "\t") as $m ({date: $date}; .[$m[0]][$m[1]] = ($m[2] | tonumber))' >"$1"
}

# bars FILE TITLE PATTERN [ratio]: the medians whose WHAT ends in PATTERN as an SVG, a group of bars for each WHAT; or
# their ratios to the first, on a logarithmic scale.
bars() {
	medians | awk -F '\t' -v title="$2" -v pattern="$3" -v ratio="${4:-}" '
		function text(x, y, size, s) {
			gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s)
			body = body sprintf("<text x=\"%d\" y=\"%d\" font-size=\"%d\">%s</text>\n", x, y, size, s)
		}
		$1 ~ pattern "$" {
			if ($1 != last) { y += 14; text(10, y + 14, 13, $1); y += 22; last = $1 }
			what[++n] = $1; who[n] = $2; value[n] = $3; at[n] = y; y += 20
			if (ratio) { note[n] = sprintf("x %.2f (%.4g)", $4, $3); value[n] = log($4 > 0.01 ? $4 : 0.01) - log(0.01) }
			else note[n] = sprintf("%.4g", $3)
			if (value[n] > most) most = value[n]
		}
		BEGIN { y = 34; split("#4c72b0 #dd8452 #55a868 #c44e52 #8172b3 #937860 #da8bc3", colour, " ") }
		END {
			text(10, 22, 16, title)
			for (i = 1; i <= n; i++) {
				c = what[i] == what[i - 1] ? c % 7 + 1 : 1
				w = most ? 420 * value[i] / most : 0
				text(24, at[i] + 12, 12, who[i])
				body = body sprintf("<rect x=\"140\" y=\"%d\" width=\"%.1f\" height=\"15\" fill=\"%s\"/>\n", at[i], w, colour[c])
				text(146 + w, at[i] + 12, 12, note[i])
			}
			if (ratio && most) body = body sprintf("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"34\" y2=\"%d\" stroke=\"black\"/>\n",
				140 - 420 * log(0.01) / most, 140 - 420 * log(0.01) / most, y)
			printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"%d\" font-family=\"sans-serif\">\n", y + 16
			printf "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n%s</svg>\n", body
		}' >"$1"
}

# median WHAT WHO
median() { medians | awk -F '\t' -v what="$1" -v who="$2" '$1 == what && $2 == who { print $3 }'; }

# goal WHAT WHO FACTOR OTHER [MOST]: is WHO at least FACTOR times OTHER? Says so, and never fails: the machine is noisy.
# MOST does nothing but answer, so where even that is less than FACTOR times OTHER no server can do it, and it says so.
goal() {
	awk -v a="$(median "$1" "$2")" -v b="$(median "$1" "$4")" -v f="$3" -v what="$1" -v who="$2" -v other="$4" \
		-v most="${5:-}" -v m="$(median "$1" "${5:-$4}")" 'BEGIN {
		r = b ? a / b : 0
		l = b ? m / b : 0
		printf "%-8s %s: %s is %.2f x %s, %.2f wanted", (r >= f ? "reached" : "short of"), what, who, r, other, f
		if (most) printf "; %s is %.2f x%s", most, l, (r < f && l < f ? ": out of reach" : "")
		print ""
	}'
}

# confined BYTES COMMAND...: with no more memory than that, page cache included. Fails where there is no memory cgroup.
confined() {
	local bytes=$1 top=/sys/fs/cgroup limit=memory.max group
	shift
	if [ -e $top/memory/memory.limit_in_bytes ]; then
		top=$top/memory limit=memory.limit_in_bytes
	elif ! grep -qw memory $top/cgroup.subtree_control 2>/dev/null; then
		return 1
	fi
	group=$top/tmem-bench-$$
	if [ ! -d "$group" ]; then
		mkdir "$group" || return 1
		undo "rmdir $group"
	fi
	echo "$bytes" >"$group/$limit" || return 1
	(
		echo "$BASHPID" >"$group/cgroup.procs"
		exec "$@"
	)
}

# calc EXPRESSION
calc() { awk "BEGIN { print $1 }"; }

# cpu_us PID: microseconds of CPU so far, user and system, ended threads included, children not.
cpu_us() { awk '{ sub(/.*\) /, ""); print ($12 + $13) * 1e6 / '"$(getconf CLK_TCK)"' }' "/proc/$1/stat"; }

# pss_bytes PID: memory that is this process's share, shared mappings included.
pss_bytes() { awk '/^Pss:/ { print $2 * 1024 }' "/proc/$1/smaps_rollup"; }
