#!/bin/bash
# A shelf of small computers emulated on this machine (README.md): every node is a network namespace on a common switch, with
# token buckets on both ends of its cable and control groups for its processor time and memory. Needs root, ip, tc, nsenter.
# Several shelves live side by side under different names (SHELF=name, default "shelf"); each has its network for itself.
set -euo pipefail

readonly name=${SHELF:-shelf}
readonly prefix=tessera-$name state=/run/tessera-shelf/$name subnet=10.91.0 groups=/sys/fs/cgroup

usage() {
  cat <<'TEXT'
shelf.sh up N [--profile pi3|pi3+|pi4|pi5|mixed --core-gflops G] [OPTION...]   N nodes, numbered from 1
shelf.sh set I|all OPTION...        change nodes while they run
shelf.sh exec I COMMAND...          run a command in node I, in the foreground
shelf.sh spawn I LOG COMMAND...     the same in the background, its output into LOG
shelf.sh quit I|all                 end what runs in nodes
shelf.sh cut I | heal I             pull node I's cable out, plug it in
shelf.sh stats [--json]             CPU seconds, memory, bytes since `up` or `reset`
shelf.sh reset                      count anew (nothing may be running in the nodes)
shelf.sh list | address I | show PROFILE I G | check | down
  --gflops F    sgemm of a node, of the --core-gflops that one core of this machine does (or --cpu: share of a core, 0: all)
  --rate R      of its cable, each way, as tc writes it: 94mbit (none: as fast as it goes)
  --memory M    MiB, 0: no limit          --period US  of the processor quota, default 10000, longer for small shares
  --awake 0|1   keep this machine's cores from sleeping (default 1): where they wake up late, links are slow
TEXT
}

die() { echo "shelf: $*" >&2; exit 1; }
space() { echo "$prefix-$1"; }
nodes() { local f; for f in "$state"/node.*; do [ ! -e "$f" ] || echo "${f##*.}"; done | sort -n; }
known() { [ -e "$state/node.${1:-}" ] || die "there is no node '${1:-}' on shelf '$name'; its nodes: $(nodes | xargs)"; }
chosen() { if [ "${1:-}" = all ]; then nodes; else known "${1:-}"; echo "$1"; fi; }

# Control groups of version 1 have a tree for each controller, those of version 2 one for all.
hierarchy() {
  if [ -e $groups/cpu/cpu.cfs_quota_us ] || [ -e $groups/cpu/cgroup.procs ]; then echo 1
  elif grep -qw cpu $groups/cgroup.controllers 2>/dev/null && grep -qw memory $groups/cgroup.controllers; then echo 2
  else echo 0; fi
}
version=$(hierarchy)
readonly version
case $version in
  1) readonly trees="$groups/cpu $groups/cpuacct $groups/memory" ;;
  *) readonly trees=$groups ;;
esac
group_of() { # CONTROLLER NODE
  if [ "$version" = 1 ]; then echo "$groups/$1/$prefix/$2"; else echo "$groups/$prefix/$2"; fi
}

why_not() { # prints why a shelf cannot be made here, or nothing
  local tool
  [ "$(id -u)" = 0 ] || { echo "it takes root"; return; }
  for tool in ip tc nsenter setsid; do command -v $tool >/dev/null || { echo "no $tool (Debian: iproute2, util-linux)"; return; }; done
  [ "$version" != 0 ] || { echo "neither version 1 nor version 2 of control groups offers cpu and memory at $groups"; return; }
  ip netns add "$prefix-probe" 2>/dev/null || { echo "the kernel makes no network namespaces"; return; }
  ip -n "$prefix-probe" link add probe type veth peer name other 2>/dev/null || echo "the kernel has no veth"
  ip netns exec "$prefix-probe" tc qdisc add dev probe root tbf rate 1mbit burst 3200 limit 10000 2>/dev/null || echo "the kernel has no tbf"
  ip netns delete "$prefix-probe"
}

# GFLOP/s of sgemm, cable, memory of node I. Cables as measured on the boards; "mixed" has speeds of 1 : 1 : 2 : 4.
profile() {
  case $1 in
    pi3) echo 20 94mbit 1024 ;;
    pi3+) echo 20 224mbit 1024 ;;
    pi4) echo 30 940mbit 4096 ;;
    pi5) echo 80 940mbit 8192 ;;
    mixed) case $((($2 - 1) % 4)) in 0 | 1) echo 20 94mbit 1024 ;; 2) echo 40 940mbit 4096 ;; 3) echo 80 940mbit 8192 ;; esac ;;
    *) die "no profile '$1'; there are pi3, pi3+, pi4, pi5, mixed" ;;
  esac
}

bits_per_second() {
  awk -v rate="$1" 'BEGIN {
    if (!match(rate, /^[0-9]+(\.[0-9]+)?/)) exit 1
    number = substr(rate, 1, RLENGTH); unit = tolower(substr(rate, RLENGTH + 1))
    factor["bit"] = 1; factor["kbit"] = 1e3; factor["mbit"] = 1e6; factor["gbit"] = 1e9
    if (!(unit in factor) || number == 0) exit 1
    printf "%.0f", number * factor[unit] }' || die "--rate '$1': 94mbit, 1gbit, ... or none is expected"
}

# Fills rate, cpu, memory, period, awake and core from options, those given last first in rank.
rate=none cpu=0 memory=0 period=10000 awake=1 core='' gflops='' wanted_profile=''
parse() {
  while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || die "$1 needs a value"
    case $1 in
      --rate) rate=$2; [ "$2" = none ] || bits_per_second "$2" >/dev/null ;;
      --cpu) cpu=$2 gflops='' ;;
      --memory) memory=$2 ;; --period) period=$2 ;; --awake) awake=$2 ;;
      --gflops) gflops=$2 ;; --core-gflops) core=$2 ;; --profile) wanted_profile=$2 ;;
      *) die "unknown option $1 (shelf.sh help)" ;;
    esac
    [[ $1 =~ ^--(rate|profile)$ || $2 =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "$1 needs a number, not '$2'"
    shift 2
  done
  if [ -n "$gflops" ]; then
    [ -n "$core" ] || die "--core-gflops is needed to make a node of $gflops GFLOP/s (build/bench/training --measure-sgemm --threads 1)"
    cpu=$(awk -v g="$gflops" -v c="$core" 'BEGIN { if (c <= 0 || g > c) exit 1; printf "%.4f", g / c }') ||
      die "a node of $gflops GFLOP/s does not fit a core of $core"
  fi
}
parse_for_node() { # NODE OPTION...: the profile first, then what overrides it
  local node=$1; shift
  parse "$@"
  [ -z "$wanted_profile" ] || { local row; row=$(profile "$wanted_profile" "$node"); read -r gflops rate memory <<<"$row"; parse "$@"; }
}

# The bucket holds 0.4 ms of line but two frames at least; the queue 30 ms, but at least what a host (or a switch) has.
shape() { # NAMESPACE DEVICE RATE QUEUE_BYTES
  ip netns exec "$1" tc qdisc delete dev "$2" root 2>/dev/null || true
  [ "$3" != none ] || return 0
  local bits; bits=$(bits_per_second "$3")
  local burst=$((bits / 20000)) queue=$((bits * 3 / 800))
  ip netns exec "$1" tc qdisc add dev "$2" root tbf rate "${bits}bit" burst $((burst > 3200 ? burst : 3200)) \
    limit $((queue > $4 ? queue : $4)) || die "$1: tbf was refused on $2"
}

# The kernel takes no quota under 1 ms, so small shares get a longer period.
quota() {
  awk -v share="$cpu" -v period="$period" 'BEGIN {
    if (share == 0) { print -1, period; exit }
    slice = share * period; if (slice < 1000) { slice = 1000; period = slice / share }
    if (period > 1000000) period = 1000000
    printf "%.0f %.0f\n", slice, period }'
}
limit_processor() { # NODE
  local slice length; read -r slice length < <(quota)
  if [ "$version" = 1 ]; then
    local at; at=$(group_of cpu "$1")
    { echo -1 >"$at/cpu.cfs_quota_us" && echo "$length" >"$at/cpu.cfs_period_us" && echo "$slice" >"$at/cpu.cfs_quota_us"; } ||
      die "node $1: a quota of $slice in $length us was refused"
  else
    echo "${slice/#-1/max} $length" >"$(group_of cpu "$1")/cpu.max" || die "node $1: a quota of $slice in $length us was refused"
  fi
}
limit_memory() { # NODE
  local at bytes=$((memory * 1048576)); at=$(group_of memory "$1")
  if [ "$version" = 1 ]; then
    [ ! -e "$at/memory.memsw.limit_in_bytes" ] || echo -1 >"$at/memory.memsw.limit_in_bytes"
    echo $((bytes > 0 ? bytes : -1)) >"$at/memory.limit_in_bytes" || die "node $1: it holds more than $memory MiB already"
    [ ! -e "$at/memory.memsw.limit_in_bytes" ] || [ $bytes = 0 ] || echo $bytes >"$at/memory.memsw.limit_in_bytes"
  else
    [ ! -e "$at/memory.swap.max" ] || echo 0 >"$at/memory.swap.max"
    if [ $bytes -gt 0 ]; then echo $bytes; else echo max; fi >"$at/memory.max"
  fi
}
make_groups() { # NODE
  local tree
  for tree in $trees; do mkdir -p "$tree/$prefix"; done
  [ "$version" = 1 ] || { echo "+cpu +memory" >$groups/cgroup.subtree_control; echo "+cpu +memory" >"$groups/$prefix/cgroup.subtree_control"; }
  for tree in $trees; do mkdir -p "$tree/$prefix/$1"; done
}
apply() { # NODE
  shape "$(space "$1")" eth0 "$rate" 1500000
  shape "$(space switch)" "port$1" "$rate" 131072
  limit_processor "$1"
  limit_memory "$1"
  echo "$rate $cpu $memory $period" >"$state/node.$1"
}

add_node() {
  local own; own=$(space "$1")
  ip netns add "$own"
  ip netns exec "$own" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 2>/dev/null || true
  ip -n "$(space switch)" link add "port$1" type veth peer name eth0 netns "$own"
  ip -n "$(space switch)" link set "port$1" master bridge0 up
  ip -n "$own" link set lo up
  ip -n "$own" address add "$subnet.$1/24" dev eth0
  ip -n "$own" link set eth0 up
  # One core receives for a link, or its two queues overtake each other and TCP takes that for loss.
  local mask; mask=$(printf %x $((1 << ($1 % $(nproc) % 32))))
  ip netns exec "$own" sh -c "echo $mask >/sys/class/net/eth0/queues/rx-0/rps_cpus"
  ip netns exec "$(space switch)" sh -c "echo $mask >/sys/class/net/port$1/queues/rx-0/rps_cpus"
  make_groups "$1"
}

keep_awake() { # a spinner of the idle class per core, in a group that counts as idle beside everything else
  local tree=${trees%% *} core; local at=$tree/$prefix-awake
  mkdir -p "$at"
  [ ! -e "$at/cpu.idle" ] || echo 1 >"$at/cpu.idle"
  for ((core = 0; core < $(nproc); ++core)); do
    (echo $BASHPID >"$at/cgroup.procs"; exec chrt --idle 0 taskset -c $core bash -c 'while :; do :; done') </dev/null >/dev/null 2>&1 &
  done
}

up() {
  local count=${1:-} node total=0 why; shift || true
  [[ $count =~ ^[0-9]+$ && $count -ge 1 && $count -le 200 ]] || die "up N: a shelf has 1 to 200 nodes"
  parse "$@"
  why=$(why_not); [ -z "$why" ] || die "no shelf can be made here: $why"
  [ ! -e "$state" ] || die "shelf '$name' is up already (shelf.sh down; or another name: SHELF=other)"
  mkdir -p "$state"
  trap '[ $? = 0 ] || down' EXIT
  ip netns add "$(space switch)"
  ip netns exec "$(space switch)" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 2>/dev/null || true
  ip -n "$(space switch)" link add bridge0 type bridge forward_delay 0 mcast_snooping 0
  ip -n "$(space switch)" link set bridge0 up
  for ((node = 1; node <= count; ++node)); do
    add_node $node
    parse_for_node $node "$@"
    apply $node
    total=$(awk -v a="$total" -v b="$cpu" 'BEGIN { print a + b }')
  done
  awk -v t="$total" -v n="$(nproc)" 'BEGIN { exit !(t > 0.9 * n) }' &&
    echo "shelf: note: the nodes together take $total cores, more than 90 % of this machine's $(nproc): they slow each other down" >&2
  [ "$awake" = 0 ] || keep_awake
  trap - EXIT
}

kill_in() { # GROUP...: the processes listed there and no other, until there are none
  local attempt group pid left
  for ((attempt = 0; attempt < 100; ++attempt)); do
    left=0
    for group; do
      [ -e "$group/cgroup.procs" ] || continue
      while read -r pid; do
        [ "$pid" = $$ ] && continue
        left=1
        kill -"$([ $attempt -lt 40 ] && [ "${gently:-0}" = 1 ] && echo TERM || echo KILL)" "$pid" 2>/dev/null || true
      done <"$group/cgroup.procs"
    done
    [ $left = 1 ] || return 0
    sleep 0.05
  done
}

remove_groups() { # NODE
  local tree; for tree in $trees; do [ ! -d "$tree/$prefix/$1" ] || rmdir "$tree/$prefix/$1" || return 1; done
}

down() { # also of a shelf that is half made; removes what bears its name only
  local tree at space
  for tree in $trees; do kill_in "$tree/$prefix-awake"; for at in "$tree/$prefix"/*/; do kill_in "${at%/}"; done; done
  for space in /run/netns/"$prefix"-*; do
    case ${space##*/"$prefix"-} in switch | probe | [0-9]*) [ ! -e "$space" ] || ip netns delete "${space##*/}" ;; esac
  done
  local attempt left # a group stays busy for a moment after its last process was killed
  for ((attempt = 0; attempt < 100; ++attempt)); do
    left=0
    for tree in $trees; do
      for at in "$tree/$prefix"/*/ "$tree/$prefix" "$tree/$prefix-awake"; do
        [ ! -d "$at" ] || rmdir "$at" 2>/dev/null || { left=1; [ "$at" = "$tree/$prefix" ] || kill_in "${at%/}"; }
      done
    done
    [ $left = 1 ] || break
    sleep 0.05
  done
  rm -rf "$state"
  [ $left = 0 ] || die "control groups of shelf '$name' cannot be removed: something runs there still"
}

enter() { # NODE COMMAND...
  local node=$1 tree; shift
  for tree in $trees; do echo $BASHPID >"$tree/$prefix/$node/cgroup.procs" || die "node $node cannot be entered"; done
  exec nsenter --net="/run/netns/$(space "$node")" -- "$@"
}

counters() { # NODE -> cpu_s throttled_s peak_bytes bytes oom_kills sent received
  local c m; c=$(group_of cpu "$1") m=$(group_of memory "$1")
  if [ "$version" = 1 ]; then
    awk '{ print $1 / 1e9 }' "$(group_of cpuacct "$1")/cpuacct.usage"
    awk '/^throttled_time/ { print $2 / 1e9 }' "$c/cpu.stat"
    cat "$m/memory.max_usage_in_bytes" "$m/memory.usage_in_bytes"
    awk '/^oom_kill / { n = $2 } END { print n + 0 }' "$m/memory.oom_control"
  else
    awk '/^usage_usec/ { print $2 / 1e6 }' "$c/cpu.stat"
    awk '/^throttled_usec/ { n = $2 } END { print n / 1e6 }' "$c/cpu.stat"
    cat "$m/memory.peak" 2>/dev/null || cat "$m/memory.current" # memory.peak: Linux 5.19
    cat "$m/memory.current"
    awk '/^oom_kill / { n = $2 } END { print n + 0 }' "$m/memory.events"
  fi
  ip netns exec "$(space "$1")" cat /proc/net/dev | awk '/eth0:/ { sub(/.*:/, ""); print $9; print $1 }'
}

stats() {
  local node row sent0 received0 first=1
  [ "${1:-}" = --json ] && echo '[' || printf '%-5s %9s %12s %9s %9s %4s %14s %14s  %s\n' node 'cpu s' 'throttled s' 'peak MB' 'now MB' oom \
    'sent bytes' 'received bytes' 'rate, cores, MiB, period us'
  for node in $(nodes); do
    row=$(counters "$node" | xargs) sent0=0 received0=0
    [ ! -e "$state/base.$node" ] || read -r sent0 received0 <"$state/base.$node"
    if [ "${1:-}" = --json ]; then
      [ $first = 1 ] || echo ,
      first=0
      awk -v n="$node" -v s0="$sent0" -v r0="$received0" '{
        printf "{\"node\": %d, \"cpu_s\": %.3f, \"throttled_s\": %.3f, \"peak_bytes\": %d, \"bytes\": %d, \"oom_kills\": %d, \"sent_bytes\": %d, \"received_bytes\": %d}",
          n, $1, $2, $3, $4, $5, $6 - s0, $7 - r0 }' <<<"$row"
    else
      awk -v n="$node" -v s0="$sent0" -v r0="$received0" -v l="$(cat "$state/node.$node")" '{
        printf "%-5d %9.2f %12.2f %9.1f %9.1f %4d %14d %14d  %s\n", n, $1, $2, $3 / 1e6, $4 / 1e6, $5, $6 - s0, $7 - r0, l }' <<<"$row"
    fi
  done
  [ "${1:-}" != --json ] || echo ']'
}

reset() { # empty groups are made anew, which is the one way that starts every counter at 0 on every kernel
  local node
  for node in $(nodes); do
    remove_groups "$node" 2>/dev/null || die "node $node: something runs there; shelf.sh quit $node first"
    make_groups "$node"
    read -r rate cpu memory period <"$state/node.$node"
    limit_processor "$node"
    limit_memory "$node"
    counters "$node" | tail -n 2 | xargs >"$state/base.$node"
  done
}

command=${1:-help}
[ $# = 0 ] || shift
case $command in
  show) # what `up` gives node I, without making anything
    [ $# = 3 ] || die "show PROFILE I G"
    parse_for_node "$2" --profile "$1" --core-gflops "$3"
    echo "rate $rate, $cpu of a core ($(quota) us), $memory MiB"; exit ;;
  check) why=$(why_not); [ -z "$why" ] || { echo "$why"; exit 1; }; exit ;;
  help | --help | -h) usage; exit ;;
esac
[ "$(id -u)" = 0 ] || die "'$command' takes root"
case $command in
  up) up "$@" ;;
  set)
    [ $# -ge 3 ] || die "set I|all OPTION..."
    which=$(chosen "$1"); shift
    for node in $which; do read -r rate cpu memory period <"$state/node.$node"; gflops=''; parse_for_node "$node" "$@"; apply "$node"; done ;;
  exec) [ $# -ge 2 ] || die "exec I COMMAND..."; known "$1"; enter "$@" ;;
  spawn)
    [ $# -ge 3 ] || die "spawn I LOG COMMAND..."
    known "$1"; node=$1 log=$2; shift 2
    (enter "$node" setsid "$@") </dev/null >"$log" 2>&1 &
    last=${trees##* } # it is in the node when `spawn` returns, so that `quit` and `down` find it
    for ((i = 0; i < 100; ++i)); do kill -0 $! 2>/dev/null && ! grep -qx $! "$last/$prefix/$node/cgroup.procs" || break; sleep 0.02; done ;;
  quit) which=$(chosen "${1:-}"); for node in $which; do gently=1 kill_in "$(group_of cpu "$node")"; done ;;
  cut) known "${1:-}"; ip -n "$(space switch)" link set "port$1" down ;;
  heal) known "${1:-}"; ip -n "$(space switch)" link set "port$1" up ;;
  stats) [ -e "$state" ] || die "shelf '$name' is not up"; stats "$@" ;;
  reset) reset ;;
  address) known "${1:-}"; echo "$subnet.$1" ;;
  list) for node in $(nodes); do echo "$node $subnet.$node $(cat "$state/node.$node")"; done ;;
  down) down ;;
  *) usage >&2; exit 2 ;;
esac
