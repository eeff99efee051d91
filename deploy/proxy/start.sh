# Writes the settings that nginx cannot read from variables, then starts nginx.
set -eu
nameserver=$(awk '$1 == "nameserver" { print $2; exit }' /etc/resolv.conf)
case $nameserver in *:*) nameserver="[$nameserver]" ;; esac
cat > /tmp/replicas.conf <<CONF
resolver $nameserver valid=1s ipv6=off;
map "" \$replicas { default "service:${SERVICE_PORT:-8000}"; }
CONF
exec nginx -e /dev/stderr -c /etc/resident-proxy/nginx.conf
