import Glibc
import Testing

/// What real mounts need. A test that cannot run says what is missing.
enum Requirements {
    static let missing: String? = {
        if access("/dev/fuse", R_OK | W_OK) != 0 { return "/dev/fuse cannot be opened" }
        if geteuid() != 0 { return "mount(2) needs root" }
        return nil
    }()

    static var mounts: ConditionTrait { .enabled(if: missing == nil, "\(missing ?? "")") }
}

/// All tests with mounts, one after another: they measure time and count requests.
@Suite("a FUSE session", .serialized, Requirements.mounts)
struct SessionTests {}
