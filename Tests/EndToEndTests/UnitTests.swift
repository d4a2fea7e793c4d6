// SPDX-License-Identifier: Apache-2.0
// allocsd as the shipped unit runs it: with the unit's capabilities and system calls and no others. What the documents
// promise must work so, for the processes of every user.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("the unit", .enabled(if: Restrictions.isRoot, "needs root, for capabilities and other users"))
  struct UnitTests {
    /// The values of a setting in systemd/allocsd.service, line by line.
    private static func values(of setting: String) throws -> [[String]] {
      let unit = try String(
        contentsOfFile: "\(Installation.packageDirectory)/systemd/allocsd.service", encoding: .utf8)
      return unit.split(separator: "\n").filter { $0.hasPrefix("\(setting)=") }.map {
        $0.dropFirst(setting.count + 1).split(separator: " ").map(String.init)
      }
    }

    /// The system calls that the unit allows, by its settings in their order: a line that begins with ~ takes away.
    private static func systemCalls() throws -> Set<String> {
      let analyzer = try installedProgram("systemd-analyze", package: "systemd")
      let listing = try ChildProcess.run([analyzer, "syscall-filter", "--no-pager"]).output
      var sets: [String: [String]] = [:]
      var set = ""
      for line in listing.split(separator: "\n") {
        let word = line.trimmingCharacters(in: .whitespaces)
        if line.hasPrefix("@") {
          set = word
        } else if line.hasPrefix(" "), !word.hasPrefix("#") {
          sets[set, default: []].append(word)
        }
      }
      func calls(_ word: String) -> Set<String> {
        guard word.hasPrefix("@") else { return [word] }
        return Set((sets[word] ?? []).flatMap(calls))
      }
      // systemd itself adds these to every list of what is allowed.
      var allowed = calls("@default")
      for line in try values(of: "SystemCallFilter") {
        let isTakenAway = line.first?.hasPrefix("~") == true
        for word in line {
          let named = calls(isTakenAway && word.hasPrefix("~") ? String(word.dropFirst()) : word)
          if isTakenAway { allowed.subtract(named) } else { allowed.formUnion(named) }
        }
      }
      return allowed
    }

    @Test("each user is answered, events are told, ends are noted, and dead segments go, under the unit's own rights")
    func promises() throws {
      let capabilities = try Self.values(of: "CapabilityBoundingSet").flatMap { $0 }.map {
        "+" + $0.lowercased().dropFirst("cap_".count)
      }
      try #require(capabilities.count > 3)
      let calls = try Self.systemCalls()
      try #require(calls.contains("read") && calls.contains("setresuid") && !calls.contains("mount"))

      let directory = try TestDirectory()
      let outcome = try ChildProcess.run([
        Installation.packageDirectory + "/scripts/install", Installation.directory.get(), "", directory.path,
      ])
      try #require(outcome.ending == .exit(0), "\(outcome.errors)")
      _ = try directory.write(calls.sorted().joined(separator: "\n"), to: "calls")
      let probe = try Installation.testProgram("confinement-probe")
      try makeExecutable(directory.file("probe"), from: probe)
      let script = try directory.write(Self.script, to: "script")
      let result = try ChildProcess.run(
        [
          "unshare", "-m", "-p", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "bash", script,
          directory.path, (["-all"] + capabilities).joined(separator: ","),
        ])
      let said = result.output.split(separator: "\n").map(String.init)
      for line in [
        "directory of a user: 4242 700", "query of a user: site", "mappings of a user: yes", "events of a user: yes",
        "query of another user: refused", "events of another user: refused", "end of a process: 3",
        "list for root: 4242 4343", "query for root: site", "query of root's process: site",
        "mappings of root's process: yes", "dead segments: gone", "worker's capabilities: none",
        "end after SIGTERM: 0",
      ] {
        #expect(said.contains(line), "no '\(line)' in \(said); \(result.errors.suffix(3000))")
      }
      #expect(result.ending == .exit(0))
    }

    /// Runs in namespaces of its own, with a /run and a /dev/shm of its own. Says a line for each promise.
    private static let script = #"""
      mount -t tmpfs -o mode=755 tmpfs /mnt && cp -r "$1"/. /mnt && chmod -R go+rX /mnt
      mount -t tmpfs -o mode=1777 tmpfs /dev/shm && mount -t tmpfs -o mode=755 tmpfs /run || exit 1
      systemd-tmpfiles --create /mnt/lib/tmpfiles.d/allocs.conf || exit 1
      cd /; umask 022
      socket=/run/allocs/allocsd.sock
      as() { local user=$1; shift; setpriv --reuid=$user --regid=$user --clear-groups --inh-caps=-all env HOME=/ "$@"; }
      ask() { local user=$1; shift; as "$user" timeout 20 /mnt/bin/allocsctl "$@" --socket $socket 2>&1; }
      # Until a command succeeds, two minutes at most.
      until_true() { local i; for i in $(seq 2400); do "$@" && return; sleep 0.05; done; echo "never: $*" >&2; false; }

      (umask 077; exec setpriv --bounding-set="$2" --inh-caps=-all --no-new-privs /mnt/probe filter=/mnt/calls \
        exec=/mnt/bin/allocsd --log-level debug --keep-dead-for 5s --look-every 1s) >/mnt/log 2>&1 &
      server=$!
      trap 'cat /mnt/log >&2' EXIT
      until_true test -S $socket || exit 1

      program='while (1) { my @a = map { "x" x (1000 * $_) } 1 .. 20; undef @a; select undef, undef, undef, 0.01 }'
      as 4242 /mnt/bin/allocsctl run -- perl -e "$program" &
      found() { test -n "$(ls $1 2>/dev/null)"; }
      until_true found '/run/allocs/4242/*.seg' || exit 1
      echo "directory of a user: $(stat -c '%u %a' /run/allocs/4242)"
      theirs=$(basename /run/allocs/4242/*.seg); theirs=${theirs%%.*}
      site() { ask "$1" top "$2" --json | grep -q '"function"' && echo site; }
      until_true site 4242 "$theirs" >/dev/null
      echo "query of a user: $(site 4242 "$theirs")"
      # Only /proc/PID/maps tells that a stack is there.
      stack() { printf '0x%s' "$(sed -n 's/-.*\[stack\]//p' "/proc/$1/maps")"; }
      mapped() { ask "$1" query "$2" "$(stack "$2")" | grep -qi stack && echo yes; }
      echo "mappings of a user: $(mapped 4242 "$theirs")"
      events() { timeout 30 setpriv --reuid="$1" --regid="$1" --clear-groups --inh-caps=-all \
        /mnt/bin/allocsctl events "$2" --json --socket $socket 2>&1 | head -n 3; }
      echo "events of a user: $(events 4242 "$theirs" | grep -q '"event":"' && echo yes)"
      refused() { grep -qiE 'user|permi|indexed|no such' && echo refused; }
      echo "query of another user: $(ask 4343 query "$theirs" 0x10 | refused)"
      echo "events of another user: $(events 4343 "$theirs" | refused)"

      ended() { ask 4343 ps --json | grep -o '"exit_status":[0-9]*' | grep -o '[0-9]*$'; }
      as 4343 /mnt/bin/allocsctl run -- perl -e 'exit 3'
      echo "end of a process: $(until_true ended)"
      users() { ask 0 ps --json | grep -oE '"(user|uid)":[0-9]+' | grep -oE '4[0-9]+$' | sort -u | xargs; }
      echo "list for root: $(users)"
      echo "query for root: $(site 0 "$theirs")"
      /mnt/bin/allocsctl run -- perl -e "$program" &
      until_true found '/run/allocs/0/*.seg' || exit 1
      own=$(basename /run/allocs/0/*.seg); own=${own%%.*}
      until_true site 0 "$own" >/dev/null
      echo "query of root's process: $(site 0 "$own")"
      echo "mappings of root's process: $(mapped 0 "$own")"

      none() { test -z "$(ls /run/allocs/4343/*.seg 2>/dev/null)"; }
      until_true none && echo "dead segments: gone"
      worker=$(pgrep -u 4242 allocsd); worker=${worker%%$'\n'*}
      test -n "$worker" || exit 1
      echo "worker's capabilities: $(grep -hE '^Cap' "/proc/$worker/status" | grep -vq 0000000000000000 || echo none)"
      kill -TERM $server; wait $server; echo "end after SIGTERM: $?"
      trap - EXIT; [ -z "$ALLOCS_TEST_LOG" ] || cat /mnt/log >&2
      kill -KILL -1 2>/dev/null
      exit 0
      """#
  }
}
