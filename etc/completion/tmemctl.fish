# SPDX-License-Identifier: GPL-2.0-or-later
# fish completion for tmemctl and tmemstat: the programs know what may come next.

complete -c tmemctl -f -a '(tmemctl --complete (commandline -opc)[2..-1] 2>/dev/null)'
complete -c tmemctl -n '__fish_seen_subcommand_from save restore' -F
complete -c tmemstat -f -a '(tmemstat --complete; tmemctl --complete freeze 2>/dev/null)'
