#!/usr/bin/env bash
# Starts qd and other queue servers in turn, each on an empty folder, measures and ends each of
# them, and prints tables. README.md says what is measured.
#
#   ./run.sh                  the default servers: what `./run.sh list` prints
#   ./run.sh SERVER...        only these
#   ./run.sh list [all]       names of the default servers, or of all
#   ./run.sh install          installs the other servers: Debian 12, as root
#
# Settings, all optional, from the environment:
#   ROUNDS         how often everything is measured, in turns (default: 3)
#   WORKS          default: w1,w2,mix,w3,w4
#   SECS MESSAGES  limits of a phase, see README.md (default: 10 200000)
#   PEERS_DIR      folder for the servers' data and the results (default: a new temporary one)
#   PORT           the first of three TCP ports on 127.0.0.1 that are free (default: 27100)
#   QD             the qd program (default: a release build of this repository)
#   PG_BIN         folder of the PostgreSQL programs (default: the newest of Debian's)
#
# It writes to PEERS_DIR and cargo's target folder only, and ends only what it started, by pid.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
defaults=(qd qd-settle redis-always redis-everysec nats rabbit-quorum rabbit-classic pg
          beanstalk-f0 beanstalk-f50)
others=(qd-unix qd-unix-settle nats-always)

port=${PORT:-27100}
target=${CARGO_TARGET_DIR:-$root/target}
bench=$target/release/qd-peers
qd=${QD:-$target/release/qd}
pg_bin=${PG_BIN:-$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)}

install_peers() {
    # Keeps the packages from starting their services, where nothing does yet.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' > $policy
        chmod +x $policy
        made=1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update
    apt-get -q install -y --no-install-recommends \
        beanstalkd redis-server nats-server rabbitmq-server postgresql
    [ -z "$made" ] || rm $policy
}

# program SERVER: what it is started by.
program() {
    case $1 in
    qd | qd-*) echo "$qd" ;;
    redis-*) echo redis-server ;;
    nats | nats-*) echo nats-server ;;
    rabbit-*) echo /usr/lib/rabbitmq/bin/rabbitmq-server ;;
    pg) echo "$pg_bin/postgres" ;;
    beanstalk-*) echo beanstalkd ;;
    esac
}

listens() {
    (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null
}

# wait_until_ready COMMAND...: until it succeeds, as long as the server lives; one minute at most.
wait_until_ready() {
    local _
    for _ in $(seq 300); do
        "$@" && return
        kill -0 "${pids[0]}" 2> /dev/null || break
        sleep 0.2
    done
    echo "$server did not start" >&2
    return 1
}

# Pids of the servers, the last one started first.
pids=()

# Starts a server in the background, its output in a log.
start() {
    "$@" >> "$data/server.log" 2>&1 < /dev/null &
    pids=($! "${pids[@]}")
}

end_servers() {
    local pid _
    for pid in "${pids[@]}"; do
        kill "$pid" 2> /dev/null || true
        for _ in $(seq 300); do
            kill -0 "$pid" 2> /dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2> /dev/null || true
        wait "$pid" 2> /dev/null || true
    done
    pids=()
}

# At the end of `one`, however it comes about.
clean_up() {
    local status=$?
    end_servers
    if [ $status != 0 ]; then
        echo "the last lines of $server:" >&2
        tail -n 20 "$data/server.log" >&2 || true
    fi
    rm -rf "$data"
}

start_rabbit() {
    export HOME=$data ERL_EPMD_PORT=$((port + 1)) ERL_CRASH_DUMP=$data/crash.dump \
        RABBITMQ_NODENAME=peers@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
        RABBITMQ_NODE_PORT=$port RABBITMQ_DIST_PORT=$((port + 2)) \
        RABBITMQ_MNESIA_BASE=$data/mnesia RABBITMQ_LOG_BASE=$data/log \
        RABBITMQ_CONFIG_FILE=$data/none RABBITMQ_ADVANCED_CONFIG_FILE=$data/none.config \
        RABBITMQ_GENERATED_CONFIG_DIR=$data/config RABBITMQ_CONF_ENV_FILE=$data/none.env \
        RABBITMQ_ENABLED_PLUGINS_FILE=$data/plugins \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
    echo '[].' > "$data/plugins"
    start epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT"
    wait_until_ready listens "$ERL_EPMD_PORT"
    start "$(program "$server")"
}

start_pg() {
    # PostgreSQL does not run as root.
    local as=()
    if [ "$(id -u)" = 0 ]; then
        as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
        chmod a+x "$PEERS_DIR"
        chown postgres "$data"
    fi
    (cd "$data" && "${as[@]}" "$pg_bin/initdb" -D "$data/db" -U postgres -A trust -E UTF8 \
        --no-locale >> "$data/server.log")
    start "${as[@]}" "$pg_bin/postgres" -D "$data/db" -p "$port" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
        -c max_connections=200 -c shared_buffers=1GB -c max_wal_size=4GB \
        -c synchronous_commit=on
}

# one SERVER: starts it on an empty folder, measures it, ends it.
one() {
    local ready=(listens "$port") addr=127.0.0.1:$port peer=
    server=$1
    data=$PEERS_DIR/data
    for number in "$port" $((port + 1)) $((port + 2)); do
        if listens "$number"; then
            echo "port $number is in use: say another one with PORT" >&2
            return 1
        fi
    done
    mkdir "$data"
    trap clean_up EXIT
    case $server in
    qd | qd-settle)
        peer=$server
        start "$qd" --data "$data/qd" --listen "$addr" ;;
    qd-unix | qd-unix-settle)
        peer=${server/-unix/}
        addr=unix:$data/qd.sock
        ready=(test -S "$data/qd.sock")
        start "$qd" --data "$data/qd" --listen "$addr" ;;
    redis-*)
        peer=redis
        start redis-server --bind 127.0.0.1 --port "$port" --dir "$data" --save '' \
            --appendonly yes --appendfsync "${server#redis-}" ;;
    nats)
        peer=nats
        start nats-server -a 127.0.0.1 -p "$port" -js -sd "$data" ;;
    nats-always)
        peer=nats
        echo "jetstream { store_dir: '$data', sync_interval: always }" > "$data/nats.conf"
        start nats-server -a 127.0.0.1 -p "$port" -c "$data/nats.conf" ;;
    rabbit-*)
        peer=$server
        start_rabbit ;;
    pg)
        peer=pg
        start_pg ;;
    beanstalk-f*)
        peer=beanstalk
        start beanstalkd -l 127.0.0.1 -p "$port" -b "$data" "-f${server#beanstalk-f}" ;;
    esac
    wait_until_ready "${ready[@]}"
    # What a server does behind its start.
    sleep 1
    "$bench" run --peer "$peer" --label "$server" --addr "$addr" --pid "${pids[0]}" \
        --data "$data" --works "${WORKS:-w1,w2,mix,w3,w4}" --secs "${SECS:-10}" \
        --messages "${MESSAGES:-200000}" | tee -a "$PEERS_DIR/results/$server.tsv"
}

# Fails when a name is that of no server.
check_names() {
    local name
    for name in "$@"; do
        case " ${defaults[*]} ${others[*]} " in
        *" $name "*) ;;
        *) echo "no server $name: see ./run.sh list all" >&2; return 2 ;;
        esac
    done
}

# The servers that have their programs; of the others it says so.
installed() {
    local name
    for name in "$@"; do
        if command -v "$(program "$name")" > /dev/null; then
            echo "$name"
        else
            echo "$name: left out, $(program "$name") is not installed" >&2
        fi
    done
}

measure() {
    local servers round server failed=0 files=()
    check_names "$@"
    export PEERS_DIR=${PEERS_DIR:-$(mktemp -d)}
    if [ -e "$PEERS_DIR/data" ] || [ -e "$PEERS_DIR/results" ]; then
        echo "$PEERS_DIR holds an earlier run: say another folder with PEERS_DIR" >&2
        return 1
    fi
    mkdir -p "$PEERS_DIR/results"
    case $(stat -f -c %T "$PEERS_DIR") in
    tmpfs | ramfs) echo "$PEERS_DIR is in memory: nothing there is durable" >&2 ;;
    esac
    (cd "$root" && cargo build --release --locked -p qd -p qd-peers)
    mapfile -t servers < <(installed "$@")
    for round in $(seq "${ROUNDS:-3}"); do
        echo "round $round: the machine"
        "$bench" limits --data "$PEERS_DIR" --secs 1 | tee -a "$PEERS_DIR/results/limits.txt"
        for server in "${servers[@]}"; do
            echo "round $round: $server"
            # A process of its own: its end is the end of the server.
            "$here/run.sh" one "$server" || failed=1
        done
    done
    for server in "${servers[@]}"; do
        [ ! -s "$PEERS_DIR/results/$server.tsv" ] || files+=("$PEERS_DIR/results/$server.tsv")
    done
    [ ${#files[@]} = 0 ] || "$bench" report "${files[@]}" | tee "$PEERS_DIR/results/report.md"
    echo
    echo "the results are in $PEERS_DIR/results"
    if [ $failed = 1 ]; then
        echo 'not everything was measured: see above' >&2
        return 1
    fi
}

case ${1:-} in
install) install_peers ;;
list) printf '%s\n' "${defaults[@]}" ${2:+"${others[@]}"} ;;
one) one "$2" ;;
'') measure "${defaults[@]}" ;;
*) measure "$@" ;;
esac
