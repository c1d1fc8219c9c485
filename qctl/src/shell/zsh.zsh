#compdef qctl
# Completion of qctl for zsh. It asks qctl itself, which knows the queues.
_qctl() {
    local program=${words[1]/#\~/$HOME} line found
    local -a candidates descriptions
    line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    while IFS= read -r found; do
        candidates+=("${found%%$'\t'*}")
        descriptions+=("${found/$'\t'/  -- }")
    done < <($program __complete zsh "$line" "$PREFIX" 2> /dev/null)
    case ${candidates[1]-} in
        '') return 1 ;;
        :files) _files ;;
        :directories) _files -/ ;;
        :programs) _command_names -e ;;
        *) compadd -l -d descriptions -a candidates ;;
    esac
}
if [ "$funcstack[1]" = _qctl ]; then
    _qctl "$@"
elif (( $+functions[compdef] )); then
    compdef _qctl qctl
fi
