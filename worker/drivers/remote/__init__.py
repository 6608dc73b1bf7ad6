"""Workers on other machines: each has an agent (`worker.agent`), which a `driver.RemoteDriver` asks."""
