# nooelint: oelint.var.suggestedvar.AUTHOR,oelint.var.suggestedvar.BUGTRACKER
# SPDX-License-Identifier: Apache-2.0
SUMMARY = "pycm with its command line, under Kanto's names, and a local MQTT broker"
DESCRIPTION = "All that an image needs for containers managed over MQTT, gRPC and the command line."
SECTION = "console/network"
LICENSE = "Apache-2.0"

inherit packagegroup

RDEPENDS:${PN} = "\
    ca-certificates \
    mosquitto \
    pycm \
    pycm-cli \
    pycm-kanto \
"
