import BenchReport
import Foundation

@main
struct LaminaBench {
    static func main() {
        Cleanup.installSignals()
        // All parts measure FUSE mounts, except the part `sealed`.
        setenv("LAMINA_SEAL_MODE", "off", 1)
        exit(status())
    }

    private static func status() -> Int32 {
        defer { Cleanup.all() }
        do {
            let options = try Options(Array(CommandLine.arguments.dropFirst()))
            guard geteuid() == 0 else { throw Failure("mounting and dropping caches take root") }
            for tool in ["docker-registry", "gzip", "tar", "sha256sum", "mount"] where !isInstalled(tool) {
                throw Failure("\(tool) is missing: scripts/setup.sh bench")
            }
            let bench = try Bench(options)
            var ok = true
            let seconds = timed { ok = bench.measure() }
            let table = ReportTable(figures: figures, findings: bench.findings)
            print(table.markdown())
            for absence in bench.absences { print("not available: \(absence)") }
            print("took \(Int(seconds.rounded())) s; \(table.missed) figures are below what they must reach")
            if let path = options.page {
                let page = BenchmarkPage(
                    machine: Machine.facts(options, seconds: seconds), table: table, absences: bench.absences)
                let old = try? String(contentsOfFile: path, encoding: .utf8)
                try page.markdown(keeping: old).write(toFile: path, atomically: true, encoding: .utf8)
                print("written: \(path)")
            }
            return ok ? 0 : 1
        } catch {
            say("\(error)")
            return 1
        }
    }
}
