# SPDX-License-Identifier: GPL-2.0-or-later
#
# lib.bash - what the benchmarks share: samples, medians, ratios
#
# A benchmark calls `sample WHAT WHO VALUE` in interleaved rounds, then `table` prints, for each WHAT in the order
# first seen, the median of each WHO and its ratio to the first WHO of that WHAT.

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
B=$REPO/${B:-build}
SAMPLES=$(mktemp)
CLEANUP=("rm -f $SAMPLES")
trap 'for ((i = ${#CLEANUP[@]} - 1; i >= 0; i--)); do eval "${CLEANUP[i]}" >/dev/null 2>&1 || true; done' EXIT
trap 'exit 130' INT TERM

# undo COMMAND: at exit, last registered first.
undo() { CLEANUP+=("$*"); }

sample() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$SAMPLES"; }

table() {
	awk -F '\t' '
		{
			k = $1 FS $2
			if (!(k in n)) { order[++keys] = k; if (!($1 in base)) base[$1] = k }
			v[k, ++n[k]] = $3
		}
		function median(k,    i, j, t, m) {
			m = n[k]
			for (i = 1; i <= m; i++) a[i] = v[k, i] + 0
			for (i = 2; i <= m; i++) for (j = i; j > 1 && a[j - 1] > a[j]; j--) { t = a[j]; a[j] = a[j - 1]; a[j - 1] = t }
			return m % 2 ? a[(m + 1) / 2] : (a[m / 2] + a[m / 2 + 1]) / 2
		}
		END {
			for (i = 1; i <= keys; i++) {
				k = order[i]; split(k, w, FS); m = median(k); b = median(base[w[1]])
				printf "%-34s %-12s %14.6g   x %.2f\n", w[1], w[2], m, b ? m / b : 0
			}
		}' "$SAMPLES" | sort -s -k1,1
}

# cpu_ticks PID: user and system time so far, in clock ticks, children not counted.
cpu_ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }

# pss_bytes PID: memory that is this process's share, shared mappings included.
pss_bytes() { awk '/^Pss:/ { print $2 * 1024 }' "/proc/$1/smaps_rollup"; }
