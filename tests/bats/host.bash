# SPDX-License-Identifier: GPL-2.0-or-later
#
# host.bash - a tmemd of the test's own, and clients that have no store (tests/helpers/client.c)

# shellcheck disable=SC2154 # B, T come from helpers.bash
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

# stop PID: SIGSTOP, and every thread has stopped when this returns.
stop() {
	kill -STOP "$1"
	retry 10 stopped "$1"
}
stopped() { [ -z "$(grep -h "^State:" "/proc/$1"/task/*/status | grep -v stopped)" ]; }

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
