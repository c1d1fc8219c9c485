# Completion of qctl for fish. It asks qctl itself, which knows the queues.
function __qctl_complete
    set -l words (commandline -opc)
    set -l token (commandline -ct)
    set -l program (string replace -r '^~' $HOME -- $words[1])
    set -l found ($program __complete fish (commandline -cp | string collect) "$token" 2> /dev/null)
    switch "$found[1]"
        case :files
            __fish_complete_path $token
        case :directories
            __fish_complete_directories $token
        case :programs
            __fish_complete_command
        case '*'
            printf '%s\n' $found
    end
end
complete -c qctl -f -a '(__qctl_complete)'
