#!/bin/sh
# The page: what this guest is and has counted.
number() { sed 's/^0*\([0-9]\)/\1/' "$1" 2>/dev/null; }
printf 'Content-Type: application/json\r\n\r\n'
{
    echo "name $(hostname)"
    echo "boot $(cat /proc/sys/kernel/random/boot_id)"
    echo "source $(cat /run/source)"
    # The second is read first, as it is written last: so it never seems to lead.
    [ ! -s /data2/counter ] || echo "counter2 $(number /data2/counter)"
    echo "counter $(number /data/counter)"
    ip -o addr show scope global
    cat /run/resolv.conf
} | awk '
    $1 ~ /^(name|boot|source)$/ { text = text "\"" $1 "\": \"" $2 "\", " }
    $1 ~ /^counter/ { text = text "\"" $1 "\": " $2 ", " }
    $1 ~ /^[0-9]+:$/ { addresses = addresses (addresses == "" ? "" : ", ") "\"" $4 "\"" }
    $1 == "nameserver" { dns = dns (dns == "" ? "" : ", ") "\"" $2 "\"" }
    END { print "{" text "\"addresses\": [" addresses "], \"dns\": [" dns "]}" }
'
