# Waits until the process that owns a lab is gone, however it ended, and removes what it left.
# Arguments: lock file, state folder, token of this run, prefix of its namespaces, its host link.
# The owner ends this script itself before it ends in good order.
read -r _
exec 9>>"$1"
# Whoever has the lock by now cleans up as part of its own start.
flock -w 5 9 || exit 0
[ "$(cat "$2/token" 2>/dev/null)" = "$3" ] || exit 0
for path in /run/netns/"$4"*; do
    [ -e "$path" ] || continue
    for pid in $(ip netns pids "${path##*/}"); do kill -9 "$pid"; done
done
for path in /run/netns/"$4"* /etc/netns/"$4"*; do
    [ -e "$path" ] || continue
    ip netns delete "${path##*/}"
    rm -rf /etc/netns/"${path##*/}"
done
ip link delete "$5"
rm -rf "$2"
