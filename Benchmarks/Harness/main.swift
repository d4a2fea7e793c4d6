// allocs-bench: measures the agent against the plain run and heaptrack, and the index's answers, side by side in one run.

import Foundation

setvbuf(stdout, nil, _IOLBF, 0)
do {
  let options = try Options(Array(CommandLine.arguments.dropFirst()))
  let workshop = try Workshop(options: options)
  for benchmark in Benchmark.all where options.only.isEmpty || options.only.contains(benchmark.name) {
    for row in try benchmark.run(workshop) { print(Table.line(row)) }
  }
} catch {
  FileHandle.standardError.write(Data("allocs-bench: \(error)\n".utf8))
  exit(1)
}
