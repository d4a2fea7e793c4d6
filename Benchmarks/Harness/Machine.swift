// SPDX-License-Identifier: Apache-2.0
// What the figures were measured on and with.

import Foundation

struct Machine: Encodable {
  /// When the run began, in UTC.
  let date: String
  let processor: String
  let processors: Int
  let memoryGiB: Int
  let kernel: String
  let libc: String
  let swift: String
  let heaptrack: String
  /// Runnable programs on average over the minute before the run: above 0.5, others were using the machine.
  let load: String

  init() {
    func firstLine(_ program: String, _ arguments: [String]) -> String {
      let output = (try? Command(program: program, arguments: arguments).run().output) ?? ""
      return output.split(separator: "\n").first.map(String.init) ?? "unknown"
    }
    func content(_ path: String) -> String { (try? String(contentsOfFile: path, encoding: .utf8)) ?? "" }
    let format = DateFormatter()
    format.locale = Locale(identifier: "en_US_POSIX")
    format.timeZone = TimeZone(identifier: "UTC")
    format.dateFormat = "yyyy-MM-dd HH:mm 'UTC'"
    date = format.string(from: Date())
    processor =
      content("/proc/cpuinfo").split(separator: "\n").first { $0.hasPrefix("model name") }
      .flatMap { $0.split(separator: ":").last }?.trimmingCharacters(in: .whitespaces) ?? "unknown"
    processors = ProcessInfo.processInfo.activeProcessorCount
    memoryGiB = Int(ProcessInfo.processInfo.physicalMemory >> 30)
    kernel = firstLine("uname", ["-sr"])
    libc = firstLine("getconf", ["GNU_LIBC_VERSION"])
    swift = firstLine("swiftc", ["--version"])
    heaptrack = firstLine("heaptrack", ["--version"])
    load = content("/proc/loadavg").split(separator: " ").first.map(String.init) ?? "unknown"
  }

  var lines: [String] {
    [
      "\(processor), \(processors) processors, \(memoryGiB) GiB, \(kernel), \(libc)", swift,
      "\(heaptrack), \(date), load before the run \(load)",
    ]
  }
}
