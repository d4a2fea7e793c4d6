// SPDX-License-Identifier: Apache-2.0
// A process that the tests of Confinement confine, as a test's own process has threads and is needed afterwards.
//
//     confinement-probe [become=UID:GID:GROUP,…] [threads=N] [confine | confine=rings] ACTION…
//
// Its words are done in their order, each action printing a line:
//
//     state                 /proc/self/status of every thread, in one line each
//     call=NAME[,NUMBER…]   the result of a system call; `self` for this process's id; buffers for `buffer`
//     number=N[,NUMBER…]    the result of the system call of that number
//     allocate=BYTES        whether private memory of this size can be had
//     open=PATH             opens a file for reading and keeps it open
//     descriptors           the numbers of open descriptors
//     close=N,…             closes all descriptors but these
//     filter=FILE           allows the system calls that stand in a file, and no others
//     exec=PATH WORDS…      becomes another program
//     end=PID,UID           ends a process of this user as a broker does
//     limit=NAME, raise=NAME  a limit of this process; whether it can be raised
//     resolve=NAME,…        the names that are no system call's
//     new-thread            starts a thread and waits for its end
//     wait                  waits for the end of its standard input
//
// A complaint ends it with status 1 and the complaint's words.

import CConfinement
import Confinement
import Foundation
import SystemAccess

func say(_ words: Any...) {
  _ = writeAll(Array((words.map { "\($0)" }.joined(separator: " ") + "\n").utf8), to: 1)
}

func numbers(_ text: Substring) -> [Int] {
  text.split(separator: ",").map { word in
    if word == "self" { return Int(getpid()) }
    if word == "buffer" { return Int(bitPattern: calloc(1, 4096)) }
    if word == "path" { return Int(bitPattern: strdup("/dev/null")) }
    return word.hasPrefix("0x") ? Int(word.dropFirst(2), radix: 16) ?? 0 : Int(word) ?? 0
  }
}

func nameOfError(_ code: Int32) -> String {
  switch code {
  case EPERM: "EPERM"
  case ENOSYS: "ENOSYS"
  case ENOMEM: "ENOMEM"
  case ESRCH: "ESRCH"
  case EINVAL: "EINVAL"
  default: "error \(code)"
  }
}

func call(_ number: Int, _ arguments: [Int]) -> String {
  let all = arguments + [Int](repeating: 0, count: max(0, 6 - arguments.count))
  let result = allocs_system_call(number, all[0], all[1], all[2], all[3], all[4], all[5])
  return result < 0 ? nameOfError(Int32(-result)) : "done \(result)"
}

do {
  for word in CommandLine.arguments.dropFirst() {
    let name = word.prefix { $0 != "=" }
    let value = word.dropFirst(name.count + 1)
    switch name {
    case "become":
      let ids = value.split(separator: ":", omittingEmptySubsequences: false)
      try become(
        Identity(
          uid: uid_t(ids[0])!, gid: gid_t(ids[1])!, groups: numbers(ids.count > 2 ? ids[2] : "").map { gid_t($0) }))
    case "become-itself": try become(.current())
    case "threads":
      for _ in 0..<Int(value)! {
        Thread.detachNewThread { while true { pause() } }
      }
    case "confine":
      var limits = Limits()
      limits.allowsRings = value == "rings"
      limits.allowsAccepting = value == "front"
      if value == "small" { limits.memoryBytes = 64 << 20 }
      try confine(limits)
    case "state":
      for thread in try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task") {
        // A thread that was there may have ended.
        guard let text = try? String(contentsOfFile: "/proc/self/task/\(thread)/status", encoding: .utf8) else {
          continue
        }
        say(text.split(separator: "\n").joined(separator: " | "))
      }
      say("dumpable \(call(Int(SYS_prctl), [Int(PR_GET_DUMPABLE)]))")
    case "call":
      let parts = value.split(separator: ",", maxSplits: 1)
      let number = seccomp_syscall_resolve_name(String(parts[0]))
      say(value, call(Int(number), parts.count > 1 ? numbers(parts[1]) : []))
    case "number":
      let all = numbers(value)
      say(value, call(all[0], Array(all.dropFirst())))
    case "allocate":
      let bytes = Int(value)!
      let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
      say("allocate", memory == MAP_FAILED ? nameOfError(errno) : "done")
    case "new-thread":
      let done = DispatchSemaphore(value: 0)
      Thread.detachNewThread { done.signal() }
      done.wait()
      say("new-thread done")
    case "open": say("open", open(String(value), O_RDONLY))
    case "descriptors":
      say("descriptors", (0..<Int32(1024)).filter { fcntl($0, F_GETFD) >= 0 }.map(String.init).joined(separator: ","))
    case "close": try closeAllDescriptors(but: numbers(value).map { Int32($0) })
    case "parent": try endWithParent(getppid())
    case "end":
      let ids = numbers(value)
      let code = end(pid_t(ids[0]), ofUser: uid_t(ids[1]))
      say("end", code == 0 ? "done" : nameOfError(code))
    case "resolve":
      let unknown = value.split(separator: ",").filter { seccomp_syscall_resolve_name(String($0)) < 0 }
      say("resolve", unknown.joined(separator: ","))
    case "limit", "raise":
      let resource = ["data": allocs_limit_data, "core": allocs_limit_core, "nofile": allocs_limit_nofile][
        String(value)]!
      var limits: (soft: UInt64, hard: UInt64) = (0, 0)
      _ = allocs_limits(Int32(resource), &limits.soft, &limits.hard)
      if name == "limit" {
        say(name, value, limits.soft, limits.hard)
      } else {
        let code = allocs_limit(Int32(resource), limits.soft, limits.hard + 1)
        say(name, value, code == 0 ? "done" : nameOfError(code))
      }
    case "filter":
      // As systemd's SystemCallFilter= with SystemCallErrorNumber=EPERM. Other machines' calls are left out.
      guard let filter = seccomp_init(allocs_action_not_permitted) else { fatalError("no filter") }
      for call in try String(contentsOfFile: String(value), encoding: .utf8).split(separator: "\n") {
        let number = seccomp_syscall_resolve_name(String(call))
        if number >= 0 { seccomp_rule_add_array(filter, allocs_action_allow, number, 0, nil) }
      }
      guard seccomp_load(filter) == 0 else { fatalError("the filter was refused") }
    case "exec":
      let rest = CommandLine.arguments.drop { $0 != word }.dropFirst()
      let words = ([String(value)] + rest).map { strdup($0) } + [nil]
      execv(String(value), words)
      fatalError("\(value) can't be executed: \(nameOfError(errno))")
    case "wait":
      say("waiting \(getpid())")
      while readLine() != nil {}
    default: fatalError("unknown word \(word)")
    }
  }
} catch {
  say("complaint: \(error)")
  exit(1)
}
