import Glibc
import LaminaFuzzTargets

/// One parser a process: LAMINA_FUZZ_TARGET names it.
private let target: FuzzTarget = {
    guard let name = getenv("LAMINA_FUZZ_TARGET"), let target = FuzzTarget(rawValue: String(cString: name)) else {
        fatalError("LAMINA_FUZZ_TARGET must be one of \(FuzzTarget.allCases.map(\.rawValue).joined(separator: ", "))")
    }
    return target
}()

/// What libFuzzer, which brings main(), calls with each input: https://llvm.org/docs/LibFuzzer.html#fuzz-target.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    target.run(UnsafeRawBufferPointer(start: start, count: count))
    return 0
}
