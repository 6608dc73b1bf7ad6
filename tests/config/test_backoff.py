from config.backoff import doubled


def test_it_doubles_up_to_the_most_however_often_it_is_asked() -> None:
    assert [doubled(0.5, 8.0, times) for times in range(6)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert doubled(0.5, 8.0, 100_000) == 8.0
