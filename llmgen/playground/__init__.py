"""A page to try prompts on: change a sentence, a weight or a user, and see at once what it does to the list.

    llmgen playground --dataset movielens-100k --engine hf
    llmgen serve --playground ...

page       the page as one text, and the policy that a browser holds it to
people     users of the log without the last item of each, items by their words, what can be filtered on
bodies     what the page asks
bench      one question to one arm, answered with all that the page shows of it
pictures   of items, from the catalog's folder
saving     arms as files: templates, and a config that `llmgen ab --config` takes
trial      an A/B test in the background, between the requests of the service
routes     all of it below /playground, as an addition to the service's own routes

The users' last items are held out: priors are fitted without them, so that a list can be judged by them.
"""
