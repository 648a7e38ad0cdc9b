# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for tmemctl and tmemstat: the programs know what may come next.

_tmemctl() {
	local word=${COMP_WORDS[COMP_CWORD]}
	mapfile -t COMPREPLY < <(compgen -W "$(tmemctl --complete "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)" -- "$word")
	[[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace
}

_tmemstat() {
	mapfile -t COMPREPLY < <(compgen -W "$(tmemstat --complete; tmemctl --complete freeze 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}")
}

complete -o default -F _tmemctl tmemctl
complete -F _tmemstat tmemstat
