# Apache wants a folder for its process id and its locks.
RUNTIME=$(mktemp -d) || exit 1
export RUNTIME
exec apache2 -f "$PWD/apache.conf" -DFOREGROUND
