# Completion of qctl for bash. It asks qctl itself, which knows the queues.
_qctl() {
    local program=${COMP_WORDS[0]/#\~/$HOME}
    mapfile -t COMPREPLY < <("$program" __complete bash "${COMP_LINE:0:COMP_POINT}" "$2" 2> /dev/null)
    case ${COMPREPLY[0]-} in
        :files) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -f -- "$2") ;;
        :directories) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -d -- "$2") ;;
        :programs) mapfile -t COMPREPLY < <(compgen -c -- "$2") ;;
    esac
}
complete -F _qctl qctl
