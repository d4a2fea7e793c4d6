// SPDX-License-Identifier: Apache-2.0
// What the programs of Benchmarks/Programs print of their loops.

import Measurement

/// Nanoseconds for one operation: the median batch of one run.
struct LoopTime {
  let elapsed: Double
  let processor: Double

  /// Runs `command` under `variant` and reads its first line, "elapsed NS cpu NS".
  init(of command: Command, under variant: Variant, in workshop: Workshop) throws {
    try self.init(workshop.command(command, under: variant).run().output, of: command)
  }

  /// Reads what `command` has printed.
  init(_ output: String, of command: Command) throws {
    let words = output.split(whereSeparator: \.isWhitespace)
    guard words.count >= 4, words[0] == "elapsed", words[2] == "cpu", let elapsed = Double(words[1]),
      let processor = Double(words[3])
    else { throw BenchmarkError("\(command.program) printed '\(output)' instead of its time") }
    self.elapsed = elapsed
    self.processor = processor
  }

  /// By the clock that the run was told to use.
  func nanoseconds(in workshop: Workshop) -> Double { workshop.options.usesProcessorTime ? processor : elapsed }
}
