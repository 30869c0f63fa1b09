"""The client: an ordinary Flower app, but for its mod."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_integration.flower import secure_aggregation
from secagg_quickstart.sites import EVALUATION, PROTOCOL, enrol

app = ClientApp(mods=[secure_aggregation(PROTOCOL, enrol, evaluate_metrics=EVALUATION)])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains the model that came, on this hospital's patients."""
    from secagg_quickstart import task  # torch comes with it: only where somebody trains

    net, (patients, _) = task.Net(), task.load_data(int(context.node_config["partition-id"]))
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss = task.train(
        net,
        patients,
        epochs=int(context.run_config["local-epochs"]),
        learning_rate=float(message.content["config"]["learning-rate"]),
    )
    metrics = MetricRecord({"train-loss": loss, "num-examples": len(patients.dataset)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Tests the model that came, on patients that it was not trained on."""
    from secagg_quickstart import task

    net, (_, patients) = task.Net(), task.load_data(int(context.node_config["partition-id"]))
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    metrics = MetricRecord({"accuracy": task.test(net, patients), "num-examples": len(patients.dataset)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
