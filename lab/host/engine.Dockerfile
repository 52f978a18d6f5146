# The operating system of os.Dockerfile with what plays Atlas, and with Docker's packages: what the ready host starts from.
ARG OS
FROM ${OS}
ENV DEBIAN_FRONTEND=noninteractive

# Atlas: a real NFSv4 server, and what the mount helper (rootfs/usr/lib/lab/nfs-client.py) needs in the place of a kernel's
# client. Nothing of it starts by itself: lab/atlas.py does that. libnfs-utils is there for the library that it needs.
RUN set -e; \
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends nfs-ganesha nfs-ganesha-vfs nfs-common libnfs-utils python3-fusepy; \
    systemctl mask -q nfs-ganesha.service nfs-ganesha-lock.service nfs-ganesha-config.service \
      rpcbind.service rpcbind.socket rpc-statd.service rpc-statd-notify.service nfs-client.target nfs-blkmap.service; \
    apt-get clean; rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d

# Docker's packages, made of the distribution's as for a bare host's sites (lab/vendors): docker-ce, .. Ubuntu calls the
# plugins docker-compose-v2 and docker-buildx; Debian calls Compose v2 docker-compose and ships the client apart.
# Recommended packages (apparmor, git, ..) are left out.
COPY lab/ /var/tmp/pack/lab/
RUN set -e; . /etc/os-release; \
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
    case "$ID" in \
      ubuntu) engine="docker.io docker-compose-v2 docker-buildx" ;; \
      *)      engine="docker.io docker-cli docker-compose docker-buildx" ;; \
    esac; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends --download-only $engine; \
    cd /var/tmp/pack; python3 -m lab.vendors.docker /var/cache/apt/archives debs; \
    apt-get install -y -qq --no-install-recommends ./debs/*.deb; \
    apt-get clean; rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d /var/tmp/pack
