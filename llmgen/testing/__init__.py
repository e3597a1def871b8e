"""What every engine and every prior must do, as tests that a package of your own inherits; it needs pytest.

    from llmgen.testing import PriorContract

    class TestCheap(PriorContract):
        @pytest.fixture
        def prior(self, catalog):
            return Cheap(catalog)

llmgen's own engines and priors pass the same tests.
"""

from llmgen.testing.catalogs import films, views_of
from llmgen.testing.engines import EngineContract
from llmgen.testing.priors import PriorContract

__all__ = ["EngineContract", "PriorContract", "films", "views_of"]
