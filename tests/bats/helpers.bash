# SPDX-License-Identifier: GPL-2.0-or-later
#
# helpers.bash - loaded by every bats file
#
# Each test has a private root ($T): its own control socket, mounts, files. teardown() takes down what
# the test registered with `defer`, in reverse order, whether or not the test passed.

REPO=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
B=${TM_BUILD:-$REPO/build}
PATH=$B:$PATH

setup() {
	T=$(mktemp -d "${BATS_TEST_TMPDIR}/t.XXXX")
	export TMEM_SOCKET=$T/control.sock
	DEFERRED=()
	if declare -F test_setup >/dev/null; then test_setup; fi
}

teardown() {
	local i
	for ((i = ${#DEFERRED[@]} - 1; i >= 0; i--)); do
		eval "${DEFERRED[i]}" >/dev/null 2>&1 || true
	done
}

# defer COMMAND: run it in teardown.
defer() { DEFERRED+=("$*"); }

# retry SECONDS COMMAND...: until it succeeds. For what happens soon, not at once.
retry() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		if [ "$SECONDS" -ge "$end" ]; then
			echo "gave up waiting for: $*"
			"$@"
			return 1
		fi
		sleep 0.05
	done
}

# aged PATH...: nothing there changed in the last 30 ms. What stat says of it is trusted from now on.
aged() { retry 10 nothing_newer "$@"; }
nothing_newer() {
	local -r before=$((${EPOCHREALTIME/[.,]/} - 30000))
	[ -z "$(find "$@" -newerct "@$((before / 1000000)).$(printf %06d $((before % 1000000)))" -print -quit)" ]
}

# try STATUS COMMAND...: `run` that shows the command and its output when the status differs.
try() {
	local want=$1
	shift
	run "$@"
	if [ "$status" -ne "$want" ]; then
		printf 'command: %s\nexit %s, expected %s\n%s\n' "$*" "$status" "$want" "$output"
		return 1
	fi
}

# not COMMAND...: it fails. (A bare "! command" never fails a test: bash exempts it from errexit.)
not() {
	if "$@"; then
		echo "should have failed: $*"
		return 1
	fi
}

# contains TEXT: the last run printed it.
contains() {
	if [[ $output != *"$1"* ]]; then
		printf 'expected to contain: %s\ngot: %s\n' "$1" "$output"
		return 1
	fi
}

# one_line: the last run printed exactly one line.
one_line() {
	if [ "${#lines[@]}" -ne 1 ]; then
		printf 'expected one line, got: %s\n' "$output"
		return 1
	fi
}

# requires PROGRAM...: skip where the machine has no such program.
requires() {
	local p
	for p in "$@"; do
		command -v "$p" >/dev/null || skip "no $p on this machine"
	done
}
