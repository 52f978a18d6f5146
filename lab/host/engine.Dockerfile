# The operating system of os.Dockerfile with the distribution's own engine, and with what plays Atlas: what the ready
# host starts from.
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

# Atlas: a real NFSv4 server, and what the mount helper (rootfs/usr/lib/lab/nfs-client.py) needs in the place of a kernel's
# client. Nothing of it starts by itself: lab/atlas.py does that. libnfs-utils is there for the library that it needs.
RUN set -e; \
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends nfs-ganesha nfs-ganesha-vfs nfs-common libnfs-utils python3-fusepy; \
    systemctl mask -q nfs-ganesha.service nfs-ganesha-lock.service nfs-ganesha-config.service \
      rpcbind.service rpcbind.socket rpc-statd.service rpc-statd-notify.service nfs-client.target nfs-blkmap.service; \
    apt-get clean; rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d
