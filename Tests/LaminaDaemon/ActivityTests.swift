import Testing

@testable import LaminaDaemon

@Suite("what a server does for its clients")
struct ActivityTests {
    @Test("ends the server only when nothing runs, and nothing begins then")
    func close() {
        let activity = Activity()
        #expect(activity.begin())
        #expect(!activity.close())
        // A client that comes while something runs is served.
        #expect(activity.begin())
        activity.end()
        activity.end()
        #expect(activity.close())
        #expect(!activity.begin() && activity.running == 0)
        activity.reopen()
        #expect(activity.begin() && activity.running == 1)
    }
}
