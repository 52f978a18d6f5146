#!/bin/bash
# Read by the start-up script: variables that a saved environment does not carry over, and name parts whose values are masked.
ENV_IGNORELIST="HOME PWD USER SHLVL TERM OLDPWD SHELL _ SUDO_COMMAND HOSTNAME LOGNAME MAIL SUDO_GID SUDO_UID SUDO_USER"
ENV_OBFUSCATE_PART="TOKEN API KEY"
