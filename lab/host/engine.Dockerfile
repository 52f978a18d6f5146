# The operating system of os.Dockerfile with the distribution's own engine: what the ready host starts from.
ARG OS
FROM ${OS}
ENV DEBIAN_FRONTEND=noninteractive

# The distribution's own engine. Ubuntu calls the plugins docker-compose-v2 and docker-buildx; Debian calls Compose v2
# docker-compose and ships the client apart. Recommended packages (apparmor, git, ..) are left out.
RUN set -e; . /etc/os-release; \
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
    case "$ID" in \
      ubuntu) engine="docker.io docker-compose-v2 docker-buildx" ;; \
      *)      engine="docker.io docker-cli docker-compose docker-buildx" ;; \
    esac; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends $engine; \
    apt-get clean; rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d
