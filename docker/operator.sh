#!/bin/sh
# muslin-operator ARGUMENTS...: `muslin` with the operator's certificate, in the container of a cluster's authority.
certificates=/run/muslin/authority/operator
export MUSLIN_TLS_CERT=$certificates/tls.crt MUSLIN_TLS_KEY=$certificates/tls.key MUSLIN_TLS_CA=$certificates/ca.crt
export MUSLIN_IPAM="$MUSLIN_IPAM_SERVICE_HOST:7401" MUSLIN_ENDPOINT="$MUSLIN_ENDPOINT_SERVICE_HOST:7402" \
       MUSLIN_POLICY="$MUSLIN_POLICY_SERVICE_HOST:7403"
exec muslin "$@"
