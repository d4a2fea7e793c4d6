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
//     wait                  waits for the end of its standard input
//
// A complaint ends it with status 1 and the complaint's words.

import CConfinement
import Confinement
import Foundation
import SystemAccess

setvbuf(stdout, nil, _IOLBF, 0)

func numbers(_ text: Substring) -> [Int] {
  text.split(separator: ",").map { word in
    if word == "self" { return Int(getpid()) }
    if word == "buffer" { return Int(bitPattern: calloc(1, 4096)) }
    if word == "path" { return Int(bitPattern: strdup("/dev/null")) }
    return word.hasPrefix("0x") ? Int(word.dropFirst(2), radix: 16) ?? 0 : Int(word) ?? 0
  }
}

func call(_ number: Int, _ arguments: [Int]) -> String {
  let all = arguments + [Int](repeating: 0, count: max(0, 6 - arguments.count))
  let result = allocs_system_call_of_six(number, all[0], all[1], all[2], all[3], all[4], all[5])
  return result < 0 ? String(cString: strerrorname_np(Int32(-result))) : "done"
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
      if value == "small" { limits.memoryBytes = 64 << 20 }
      try confine(limits)
    case "state":
      for thread in try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task") {
        let text = try String(contentsOfFile: "/proc/self/task/\(thread)/status", encoding: .utf8)
        print(text.split(separator: "\n").joined(separator: " | "))
      }
      print("dumpable \(prctl_get_dumpable())")
    case "call":
      let parts = value.split(separator: ",", maxSplits: 1)
      let number = seccomp_syscall_resolve_name(String(parts[0]))
      print(value, call(Int(number), parts.count > 1 ? numbers(parts[1]) : []))
    case "number":
      let all = numbers(value)
      print(value, call(all[0], Array(all.dropFirst())))
    case "allocate":
      let bytes = Int(value)!
      let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
      print("allocate", memory == MAP_FAILED ? String(cString: strerrorname_np(errno)) : "done")
    case "new-thread":
      let done = DispatchSemaphore(value: 0)
      Thread.detachNewThread { done.signal() }
      done.wait()
      print("new-thread done")
    case "open": print("open", open(String(value), O_RDONLY))
    case "descriptors":
      print("descriptors", (0..<Int32(1024)).filter { fcntl($0, F_GETFD) >= 0 }.map(String.init).joined(separator: ","))
    case "close": try closeAllDescriptors(but: numbers(value).map { Int32($0) })
    case "parent": try endWithParent(getppid())
    case "wait":
      print("waiting \(getpid())")
      while readLine() != nil {}
    default: fatalError("unknown word \(word)")
    }
  }
} catch {
  print("complaint: \(error)")
  exit(1)
}
