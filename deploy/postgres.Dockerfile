# PostgreSQL 15 with wal2json.
FROM postgres:15-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Debian keeps no older versions that could be named here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends postgresql-15-wal2json \
    && rm -rf /var/lib/apt/lists/*
# Minor releases since August 2026 stream only through the plugins that output_plugin_libraries lists; older ones do not
# know the setting, and would not start with it.
RUN if gosu postgres postgres --describe-config | grep '^output_plugin_libraries' >/dev/null; then \
      echo "output_plugin_libraries = 'pgoutput, test_decoding, wal2json'" >> /usr/share/postgresql/postgresql.conf.sample; \
    fi
CMD ["postgres", "-c", "wal_level=logical"]
