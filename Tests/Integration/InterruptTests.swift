import Glibc
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("whoever waits for a merge can be interrupted")
    struct Interrupted {
        @Test(
            "a reader that waits for bytes that do not come ends at once when it is told to",
            arguments: ["middle", "larger", "files/000/00000"], [SIGKILL, SIGINT])
        func reader(_ name: String, _ signal: Int32) throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                try sandbox.lamina("pull", "--lazy", reference)
                let mount = try sandbox.mount(reference)
                var faults = Faults()
                faults.stallAfter = 0
                proxy.faults = faults
                let before = proxy.requests.count
                let reader = try sandbox.startProgram(["cat", "\(mount)/\(name)"])
                let mapper = try sandbox.startProgram(
                    ["python3", "-c", Scripts.readAndMap, "\(mount)/\(name)", "\(image.tree)/\(name)"])
                #expect(eventually { proxy.requests.count > before })
                #expect(reader.isRunning && mapper.isRunning, "the readers do not wait")
                let started = now()
                reader.send(signal)
                // Python turns SIGINT into an exception, which is a different case.
                mapper.send(SIGKILL)
                #expect(reader.wait(seconds: 20).signal == signal)
                #expect(mapper.wait(seconds: 20).signal == SIGKILL)
                // At once, and not only when the connection is given up, which takes half a minute.
                #expect(now() - started < 10)

                // Other readers were not affected. Once is enough: a silent connection gets half a minute.
                guard name == "middle", signal == SIGKILL else { return }
                proxy.faults = Faults()
                let other = try run(["cmp", "\(mount)/\(name)", "\(image.tree)/\(name)"], seconds: 90)
                #expect(other.exitCode == 0, "\(other)")
            }
        }

        @Test("one of two readers of a file is killed, and the other gets its bytes")
        func oneOfTwo() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                try sandbox.lamina("pull", "--lazy", reference)
                let mount = try sandbox.mount(reference)
                var faults = Faults()
                faults.bytesPerSecond = 1 << 20
                proxy.faults = faults
                let stays = try sandbox.startProgram(["cmp", "\(mount)/middle", "\(image.tree)/middle"])
                let goes = try sandbox.startProgram(["cat", "\(mount)/middle"])
                let isUnderWay = eventually { proxy.sentByteCount(of: image.layer) > 0 }
                try #require(isUnderWay && stays.isRunning && goes.isRunning, "the readers do not wait")
                proxy.reset()
                goes.send(SIGKILL)
                #expect(goes.wait(seconds: 30).signal == SIGKILL)
                #expect(stays.wait(seconds: 60).exitCode == 0)
                #expect(proxy.repeatedByteCount(of: image.layer) == 0)
            }
        }
    }
}
