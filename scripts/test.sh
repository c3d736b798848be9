#!/usr/bin/env bash
# Builds and runs all tests; arguments go to `swift build`. Ends with a summary, and with the status of the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

for condition in "root:[ $(id -u) -eq 0 ]" "/dev/fuse:[ -r /dev/fuse ] && [ -w /dev/fuse ]"; do
    if ! eval "${condition#*:}"; then
        echo "test: without ${condition%%:*} the tests that mount are left out" >&2
    fi
done

started=$SECONDS
swift build --build-tests "$@"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
# One at a time: many tests block (registries, mounts, child processes), and some measure. On two cores a few that block
# leave none of Swift's pool to a server under test.
# A test that hangs is ended, and the log's last line names it: so lines are written as they come.
limit=${LAMINA_TEST_LIMIT:-4200}
timeout --kill-after 10 "$limit" stdbuf -oL swift test --skip-build --no-parallel "$@" 2>&1 | tee "$log" || status=$?
if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
    echo "test: ended after $limit s (LAMINA_TEST_LIMIT); this one did not finish: $(grep 'started\.$' "$log" | tail -1)" >&2
fi

echo
echo "== summary, after $((SECONDS - started)) s =="
grep -E '^[✘].*(Test|Suite) ' "$log" | grep -E 'failed' | sort -u | head -40 || true
# With what each says beyond its first line: the output of a program, the state that was waited for.
awk '/^(◇|✔|✘)/ { left = 0 } /^✘.* recorded an issue/ { left = 60 } left-- > 0' "$log" | cut -c 1-300 | head -200 || true
grep -E 'Test run with|Executed [0-9]+ test' "$log" | tail -4 || true
if [ "$status" -eq 0 ]; then echo 'all tests passed'; else echo "tests failed (status $status)"; fi
exit "$status"
